"""How a generator reads prompts: its tokens, their states, and the tower that makes them at query time.

A generator of ours reads MiniLM; an adopted one brings a CLIP text encoder and a tokenizer. A student sees the same
states whichever it is, and exports the tower that makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from attributary.encoder.text import PromptTokenizer
from attributary_train.errors import StudentError
from attributary_train.generators.reader import PipelineText
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.own_text import OwnText
from attributary_train.subject.text import token_states, tokenizer
from attributary_train.towers.text import MiniLM, minilm_directory


class ClipText(nn.Module):
    """Token ids and mask, int64 [B, T] -> states float32 [B, T, D] of a CLIP text encoder, as a U-Net reads them.

    What follows a prompt changes none of its states, since each token sees those before it alone: T may be any number
    up to the encoder's.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        encoder.config._attn_implementation = "eager"
        self.dim = int(encoder.config.hidden_size)
        self.words, self.places = (
            encoder.embeddings.token_embedding,
            encoder.embeddings.position_embedding,
        )
        self.layers, self.norm = encoder.encoder.layers, encoder.final_layer_norm

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last layer's states; `mask` is the caller's to apply."""
        at = torch.arange(ids.shape[1])
        later = (at[None, :] > at[:, None]).to(torch.float32) * torch.finfo(torch.float32).min
        x: Tensor = self.words(ids) + self.places(at)
        for layer in self.layers:
            x = layer(x, later[None, None])
            x = x[0] if isinstance(x, tuple) else x
        out: Tensor = self.norm(x)
        return out


@dataclass(frozen=True)
class Words:
    """`tokens`: places of a prompt; `own`: the text encoder of an adopted checkpoint, None for MiniLM."""

    tokens: int
    own: OwnText | None

    def states(self, prompts: Sequence[str]) -> Tensor:
        """Token states as the generator reads them, float32 [N, tokens, D]."""
        return token_states(prompts, self.tokens) if self.own is None else self.own(prompts)

    def mask(self, prompts: Sequence[str]) -> Tensor:
        """Which places a prompt fills, float32 [N, tokens]; none for an empty prompt."""
        found = self._cut()(
            list(prompts), padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
        ).attention_mask.float()
        some = torch.tensor([[float(bool(prompt.strip()))] for prompt in prompts])
        return torch.as_tensor(found * some)

    def tower(self) -> nn.Module:
        """A module whose `states(ids, mask)` are those of `states`, for the export."""
        return MiniLM() if self.own is None else ClipText(self.own.parts[0])

    def tokenizer(self) -> Tokenizer:
        """The tokenizer as `tokenizer.json` holds it; raises `StudentError` for one that cannot be written so."""
        if self.own is None:
            return Tokenizer.from_file(str(minilm_directory() / "tokenizer.json"))
        backend = getattr(self._cut(), "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise StudentError(
                "tokenizer",
                f"{type(self._cut()).__name__} has no tokenizer.json; a server reads prompts by one",
            )
        found = Tokenizer.from_str(backend.to_str())
        found.no_padding()
        found.no_truncation()
        return found

    def save_tokenizer(self, folder: Path) -> Path:
        """Write it below a folder of the student; returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tokenizer.json"
        self.tokenizer().save(str(path))
        return path

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens as the server cuts them, int64 ids and mask [N, tokens]."""
        cut = PromptTokenizer(self.tokenizer(), self.tokens)
        ids, mask = PromptTokenizer.pad([cut.encode(prompt) for prompt in prompts])
        full: npt.NDArray[np.int64] = np.zeros((2, len(prompts), self.tokens), np.int64)
        full[0, :, : ids.shape[1]], full[1, :, : ids.shape[1]] = ids, mask
        return torch.from_numpy(full[0].copy()), torch.from_numpy(full[1].copy())

    def _cut(self) -> Any:
        return tokenizer(self.tokens) if self.own is None else self.own.parts[1]


# Tokens that MiniLM reads for a generator whose own encoders are no CLIP.
_PACKAGED_TOKENS = 48


def words_of(model: SubjectModel, tokens: int) -> Words:
    """How a student of a generator reads prompts: as the generator does, else by its first encoder if that is a CLIP,
    else by MiniLM. `tokens`: places of the generator's own states."""
    text = model.text
    if not isinstance(text, PipelineText):
        return Words(tokens, text)
    return Words(_PACKAGED_TOKENS, None) if text.clip is None else Words(text.clip.tokens, text.clip)
