"""The head on the generator's own features: whitened, beside the prompt's mean state, through a small network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from attributary_train.towers.rows import unit_rows

from .config import StudentConfig
from .sight import Seen
from .tower_heads import Whitening

# Principal components kept of a picture's features and of a prompt's mean state.
PICTURE, WORDS = 384, 64
# Added to every direction's deviation, times the largest: what hardly varies is not blown up.
DAMPING = 0.05
# Leading directions of each view that are compared before any label, where nothing is learnt.
LEADING = 64


def damped(rows: Tensor, count: int) -> Whitening:
    """Principal components of rows [n, F], each divided by its deviation plus `DAMPING` times the largest."""
    mean = rows.mean(0)
    far = (rows - mean).double()
    values, vectors = torch.linalg.eigh(far.T @ far / len(rows))
    count = max(1, min(count, len(values), len(rows) - 1))
    spread = values[-count:].clamp(min=0.0).sqrt()
    # Rows that are all alike have no direction.
    matrix = vectors[:, -count:] / (spread + DAMPING * spread[-1]).clamp(min=1e-9)
    return Whitening(mean, matrix.float())


class GeneratorHead(nn.Module):
    """Features without and with the prompt and its mean state -> unit vector; a linear map beside two hidden layers.

    `seen.image`: float32 [N, 2 F] of `GeneratorTower`; `empty` [T, D]: states of the empty prompt. A row without a
    prompt (mask all 0) is asked with the empty prompt throughout.
    Without epochs, features are compared as they are: their leading directions, whitened.
    """

    image_mean: Tensor
    image_matrix: Tensor
    words_mean: Tensor
    words_matrix: Tensor
    empty: Tensor

    def __init__(self, config: StudentConfig, seen: Seen, empty: Tensor) -> None:
        super().__init__()
        half = seen.image.shape[1] // 2
        picture = damped(torch.cat([seen.image[:, :half], seen.image[:, half:]]), PICTURE)
        words = damped(seen.states.mean(1), WORDS)
        self.register_buffer("image_mean", picture.mean)
        self.register_buffer("image_matrix", picture.matrix)
        self.register_buffer("words_mean", words.mean)
        self.register_buffer("words_matrix", words.matrix)
        self.register_buffer("empty", empty.mean(0))
        width = 2 * picture.matrix.shape[1] + words.matrix.shape[1]
        self.norm, self.skip = nn.LayerNorm(width), nn.Linear(width, config.dim)
        self.first, self.second = nn.Linear(width, config.hidden), nn.Linear(config.hidden, config.hidden)
        self.last, self.drop = nn.Linear(config.hidden, config.dim), nn.Dropout(config.dropout)
        if config.epochs == 0:
            self._compare(picture.matrix.shape[1], words.matrix.shape[1])

    def _compare(self, picture: int, words: int) -> None:
        """Pass on the leading directions of both views and of the words as they are: the rival of what is learnt."""
        ends = (picture, 2 * picture, 2 * picture + words)
        rows = [row for end, size in zip(ends, (picture, picture, words), strict=True)
                for row in range(end - min(LEADING, size), end)]  # fmt: skip
        rows = rows[: self.skip.out_features]
        for layer in (self.skip, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.skip.weight.data[range(len(rows)), rows] = 1.0

    def reduce(self, image: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Tower outputs to the network's input, float32 [N, W]; nothing here is trained."""
        half = image.shape[1] // 2
        some = mask.amax(dim=1, keepdim=True) > 0
        bare, query = image[:, :half], torch.where(some, image[:, half:], image[:, :half])
        words = torch.where(some, states.mean(1), self.empty)
        parts = [(part - self.image_mean) @ self.image_matrix for part in (bare, query)]
        parts.append((words - self.words_mean) @ self.words_matrix)
        return torch.cat(parts, dim=1)

    def embed(self, reduced: Tensor) -> Tensor:
        """Network's input [N, W] to unit vectors [N, dim]."""
        x = self.drop(self.norm(reduced))
        deep = self.drop(F.gelu(self.second(self.drop(F.gelu(self.first(x))))))
        return unit_rows(self.skip(x) + self.last(deep))

    def forward(self, image: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """From tower outputs to the embedding."""
        return self.embed(self.reduce(image, states, mask))
