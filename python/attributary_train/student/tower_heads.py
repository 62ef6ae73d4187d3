"""Heads on the untuned towers: from image features and token states to one unit vector, for query and item.

A head's `reduce` has no weights that are trained, so that it is done once; `embed` is what is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attributary_train.errors import StudentError
from attributary_train.towers.rows import unit_rows

from .config import StudentConfig
from .sight import Seen

# Principal components that are kept of image features and of whitened token states.
COMPONENTS = 192
# Of a row's squared length: a direction that varies less holds what float32 rounds, and is not scaled to unit variance.
_LEAST_VARIANCE = 1e-6
# Features of the image tower's last layer, which come first: the papers' towers are read at one depth.
LAST_LAYER = 1280


class PaperHead(nn.Module):
    """The paper's MLP on raw features put side by side: three hidden layers with ReLU and dropout, Xavier weights."""

    def __init__(self, config: StudentConfig, features: Seen) -> None:
        super().__init__()
        self.depth = min(LAST_LAYER, features.image.shape[1])
        inner = self.depth + features.states.shape[2]
        layers: list[nn.Module] = []
        for width in (inner, config.hidden, config.hidden):
            layers += [nn.Linear(width, config.hidden), nn.ReLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(config.hidden, config.dim))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def reduce(self, seen: Seen) -> Seen:
        """The mean of the token states: MiniLM's sentence features."""
        mask = seen.mask[:, :, None]
        pooled = (seen.states * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return Seen(seen.image[:, : self.depth], pooled[:, None], seen.mask.amax(1, keepdim=True))

    def embed(self, seen: Seen) -> Tensor:
        """Put side by side and pass through the MLP."""
        return unit_rows(self.layers(torch.cat([seen.image, seen.states[:, 0] * seen.mask], dim=1)))

    def forward(self, image: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """From tower outputs to the embedding."""
        return self.embed(self.reduce(Seen(image, states, mask)))


@dataclass(frozen=True)
class Whitening:
    """x -> (x - mean) @ matrix; mean float32 [F], matrix float32 [F, k]."""

    mean: Tensor
    matrix: Tensor


def principal(rows: Tensor, count: int) -> Whitening:
    """Principal components of unit variance, scaled so that a row has a length of about 1."""
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T.double() @ (rows - mean).double() / len(rows))
    # Few rows span few directions; the others hold rounding alone, which unit variance would blow up.
    count = max(1, min(count, len(values), len(rows) - 1))
    least = max(1e-9 * float(values[-1]), _LEAST_VARIANCE * float(rows.square().sum(1).mean()))
    keep = values[-count:].clamp(min=least)
    return Whitening(mean, (vectors[:, -count:] / keep.sqrt() / count**0.5).float())


def token_whitening(states: Tensor, count: int, damping: float) -> Whitening:
    """(C + damping x mean eigenvalue)^-1/2 of token states [n, F] with second moment C, its largest directions.

    C is the activation factor of EK-FAC for keys and values: what an unlearning step is divided by. After it, two
    prompts are alike as far as they share rare tokens, as the teacher's step sees them.
    """
    values, vectors = torch.linalg.eigh((states.T.double() @ states.double()) / len(states))
    scale = (values + damping * values.mean()).rsqrt()
    matrix = (vectors * scale)[:, -min(count, len(values)) :].float()
    return Whitening(torch.zeros(states.shape[1]), matrix / (states @ matrix).norm(dim=1).mean())


class TokenHead(nn.Module):
    """Whitened token states, each through a small network, their mean beside the picture, and an MLP on both.

    The mean of the whitened states also reaches the output by an orthogonal map of its own: where training starts from,
    similarity is that of whitened prompts.
    """

    token_matrix: Tensor
    image_mean: Tensor
    image_matrix: Tensor

    def __init__(self, config: StudentConfig, features: Seen) -> None:
        super().__init__()
        StudentError.if_below(1, dim=config.dim)
        tokens = token_whitening(features.states[features.mask > 0], COMPONENTS, config.whitening)
        picture = principal(features.image, COMPONENTS)
        self.register_buffer("token_matrix", tokens.matrix)
        self.register_buffer("image_mean", picture.mean)
        self.register_buffer("image_matrix", picture.matrix)
        inner, wide = tokens.matrix.shape[1], picture.matrix.shape[1]
        self.use_image = config.image
        self.tokens = nn.Sequential(nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, inner))
        self.layers = nn.Sequential(
            nn.Linear(wide + 2 * inner + 1, config.hidden), nn.GELU(), nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.hidden), nn.GELU(), nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.dim),
        )  # fmt: skip
        self.direct = nn.Linear(inner, config.dim, bias=False)
        nn.init.orthogonal_(self.direct.weight)
        self.gain = nn.Parameter(torch.ones(()))

    def reduce(self, seen: Seen) -> Seen:
        """Principal components of the image, whitened token states."""
        image = (seen.image - self.image_mean) @ self.image_matrix
        return Seen(image * float(self.use_image), seen.states @ self.token_matrix, seen.mask)

    def embed(self, seen: Seen) -> Tensor:
        """See the class."""
        mask = seen.mask[:, :, None]
        count = mask.sum(1).clamp(min=1.0)
        some = seen.mask.amax(1, keepdim=True)
        mean = (seen.states * mask).sum(1) / count
        deep = (self.tokens(seen.states) * mask).sum(1) / count
        joined = self.layers(torch.cat([seen.image, 2.0 * mean, deep, some], dim=1))
        direct = self.gain * unit_rows(self.direct(mean)) * some
        return unit_rows(direct + 0.5 * joined)

    def forward(self, image: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """From tower outputs to the embedding."""
        return self.embed(self.reduce(Seen(image, states, mask)))


class Ensemble(nn.Module):
    """Heads side by side: the inner product is the mean of theirs, so one vector serves them all."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors put side by side, scaled to unit length."""
        parts = [member(image, states, mask) for member in self.members]
        return unit_rows(torch.cat(parts, dim=1))
