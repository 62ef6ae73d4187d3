"""The text encoder and tokenizer that an adopted checkpoint brings along, in place of MiniLM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel

from attributary_train.errors import SubjectError
from attributary_train.files import reading
from attributary_train.subject.text import states_of
from attributary_train.towers.weights import weights_digest

ENCODER, TOKENIZER = "text_encoder", "tokenizer"


@dataclass(frozen=True)
class OwnText:
    """Token states by the encoder in `folder`, cut or padded to `tokens`; read when it is first asked.

    `digest` is what `text_digest` gave when the checkpoint was adopted.
    """

    folder: Path
    tokens: int
    digest: str

    @cached_property
    def parts(self) -> tuple[Any, Any]:
        """Encoder and tokenizer; raises `SubjectError` if they are not those that were adopted."""
        encoder, cut = open_text(self.folder)
        found = text_digest(encoder, cut)
        if found != self.digest:
            raise SubjectError(
                str(self.folder / ENCODER), f"hash {found[:12]} is not the manifest's {self.digest[:12]}"
            )
        return encoder, cut

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> float32 [B, tokens, D]; raises `SubjectError` if the encoder is not the one that was adopted."""
        encoder, cut = self.parts
        return states_of(encoder, cut, prompts, self.tokens, batch=64)


def open_text(folder: Path) -> tuple[Any, Any]:
    """The CLIP text encoder (float32, evaluation mode) and the tokenizer of a diffusers directory.

    Raises `SubjectError` if one is missing, unreadable, lacks weights, or is not of CLIP's kind.
    """
    for name in (ENCODER, TOKENIZER):
        if not (folder / name).is_dir():
            raise SubjectError(
                str(folder / name), "not found; the prompts of a checkpoint cannot be read without it"
            )
    path = folder / ENCODER
    try:
        kind = json.loads((path / "config.json").read_text()).get("model_type")
        if kind not in ("clip_text_model", "clip"):
            raise SubjectError(str(path), f"model_type {kind!r}; clip_text_model is understood")
        opened = CLIPTextModel.from_pretrained(
            path, dtype="float32", local_files_only=True, output_loading_info=True
        )
        # With what was loaded asked for it is a pair.
        encoder, info = cast(tuple[Any, dict[str, Any]], opened)
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        raise SubjectError(str(path), f"not a readable CLIPTextModel: {error}") from error
    if info["missing_keys"]:
        raise SubjectError(str(path), f"lacks weights, e.g. {min(info['missing_keys'])}")
    path = folder / TOKENIZER
    with reading(path, SubjectError, "not a readable tokenizer"):
        cut = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    return encoder.eval().requires_grad_(False), cut


def text_digest(encoder: Any, cut: Any) -> str:
    """SHA-256 of the encoder's weights and the tokenizer's vocabulary, hexadecimal."""
    vocabulary = json.dumps(cut.get_vocab(), sort_keys=True)
    return hashlib.sha256(f"{weights_digest(encoder)}{vocabulary}".encode()).hexdigest()
