"""Text states with a new word in them: the text tower stays as it is, the word's own row is learned.

Custom Diffusion learns the new word's input embedding and sends it through the frozen text tower at every step. Here
the learned row stands in the tower's *output*: the tower reads a placeholder at the word's place once a prompt, and the
row at that place is replaced. The tower is then never run backwards, which would cost more than the U-Net of the
reference model, and the other words' states are those of a word without a meaning of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel

from attributary_train.customization.families import NEW_WORD
from attributary_train.errors import CustomizationError
from attributary_train.files import reading
from attributary_train.subject.text import text_encoder, tokenizer

# What a tokenizer without a mask token reads instead: rare, and one token in CLIP's vocabulary.
_RARE_WORD = "sks"


@dataclass(frozen=True)
class States:
    """Token states float32 [B, T, D]; `place` int64 [B] is the new word's position, -1 where a prompt has none."""

    states: Tensor
    place: Tensor

    def __len__(self) -> int:
        return len(self.place)

    def take(self, rows: Sequence[int] | Tensor) -> States:
        """The rows, in that order."""
        pick = torch.as_tensor(rows, dtype=torch.int64)
        return States(self.states[pick], self.place[pick])

    def with_word(self, word: Tensor) -> Tensor:
        """States with the learned row float32 [D] at its place, [B, T, D]; gradients reach the row."""
        here = torch.arange(self.states.shape[1])[None, :] == self.place[:, None]
        return torch.where(here[:, :, None], word, self.states)


class Words:
    """The text tower of a checkpoint: its own where it has one, else MiniLM."""

    def __init__(self, folder: Path, tokens: int) -> None:
        self.tokens = tokens
        if (folder / "text_encoder").exists():
            with reading(folder / "text_encoder", CustomizationError):
                self._model: Any = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()  # type: ignore[no-untyped-call]
                self._cut: Any = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
        else:
            self._model, self._cut = text_encoder(), tokenizer(tokens)
        self._masked = self._cut.mask_token is not None
        self._mark = str(self._cut.mask_token or _RARE_WORD)
        self._number = int(self._cut(self._mark, add_special_tokens=False).input_ids[0])

    @torch.inference_mode()
    def states(self, prompts: Sequence[str], batch: int = 64) -> States:
        """States of prompts with or without `V*`; raises `CustomizationError` if the word is cut off at the end."""
        parts, places = [], []
        for at in range(0, len(prompts), batch):
            read = [prompt.replace(NEW_WORD, self._mark) for prompt in prompts[at : at + batch]]
            ids = self._cut(
                read, padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
            )
            # CLIP-conditioned models were trained without a mask; MiniLM's were not (subject/text.py).
            mask = {"attention_mask": ids.attention_mask} if self._masked else {}
            parts.append(self._model(ids.input_ids, **mask)[0])
            found = ids.input_ids == self._number
            wanted = torch.tensor([NEW_WORD in prompt for prompt in prompts[at : at + batch]])
            if bool((wanted & ~found.any(dim=1)).any()):
                row = int(torch.nonzero(wanted & ~found.any(dim=1))[0])
                raise CustomizationError(
                    "prompt", f"{prompts[at + row]!r}: {NEW_WORD} lies behind the {self.tokens} tokens"
                )
            places.append(torch.where(wanted, found.int().argmax(dim=1), -1))
        return States(torch.cat(parts).clone(), torch.cat(places).clone())
