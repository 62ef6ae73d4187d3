"""How an adopted checkpoint of any family reads prompts: by its pipeline's own text encoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from torch import Tensor

from attributary_train.errors import SubjectError
from attributary_train.files import reading
from attributary_train.subject.own_text import OwnText
from attributary_train.towers.weights import weights_digest

from .conditions import Layout
from .family import Family

TEXT_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_BATCH = 16


@dataclass(frozen=True)
class PipelineText:
    """Conditions by the encoders in `folder`, packed as `layout` says; read when they are first asked.

    `digest` is what `text_digest` gave when the checkpoint was adopted; `clip` the first encoder where it is a CLIP
    one, for students.
    """

    folder: Path
    family: Family
    layout: Layout
    digest: str
    clip: OwnText | None = None

    @cached_property
    def pipeline(self) -> Any:
        """The text side of the pipeline; raises `SubjectError` if it is not what was adopted."""
        found = text_side(self.folder, self.family)
        if text_digest(found) != self.digest:
            raise SubjectError(str(self.folder), "its text encoders are not those of the manifest")
        return found

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> float32 [B, rows, D], packed."""
        return self.layout.pack_all(
            self.family.read(self.pipeline, prompts[at : at + _BATCH])
            for at in range(0, len(prompts), _BATCH)
        )


def pipeline_class(folder: Path) -> str:
    """The class that model_index.json names; raises `SubjectError` if there is none."""
    with reading(folder, SubjectError, "no model_index.json that names a pipeline"):
        return str(json.loads((folder / "model_index.json").read_text())["_class_name"])


def open_parts(folder: Path, without: Sequence[str], **given: Any) -> Any:
    """The pipeline of a folder in float32, without some parts; raises `SubjectError`.

    `given`: parts that are there already.
    """
    kind = getattr(diffusers, pipeline_class(folder))
    try:
        there = json.loads((folder / "model_index.json").read_text())
        left_out: dict[str, Any] = {name: None for name in without if name in there}
        made = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **left_out, **given)
    except (
        OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError, ImportError, SafetensorError,
    ) as error:  # fmt: skip
        raise SubjectError(str(folder), f"not a readable {kind.__name__}: {error}") from error
    made.set_progress_bar_config(disable=True)
    return made


def text_side(folder: Path, family: Family) -> Any:
    """Tokenizers and text encoders of a pipeline, nothing else."""
    found = open_parts(folder, (family.part, "vae"))
    for name in TEXT_PARTS:
        part = getattr(found, name, None)
        if part is not None:
            part.eval().requires_grad_(False)
    return found


def text_digest(pipeline: Any) -> str:
    """SHA-256 over the weights of all text encoders and the vocabularies of their tokenizers, hexadecimal."""
    total = hashlib.sha256()
    for name in TEXT_PARTS:
        part = getattr(pipeline, name, None)
        cut: Any = getattr(pipeline, name.replace("text_encoder", "tokenizer"), None)
        if part is not None:
            total.update(f"{name}{weights_digest(part)}".encode())
            total.update(json.dumps(cut.get_vocab(), sort_keys=True).encode())
    return total.hexdigest()
