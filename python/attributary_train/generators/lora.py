"""LoRA fine-tunes: low-rank weights on a checkpoint's denoiser; they are what is looked at and moved.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
from safetensors import SafetensorError
from torch import nn

from attributary_train.errors import SubjectError

from .family import Family

# Folder below an adopted subject, and the file in it.
FOLDER, FILE = "lora", "pytorch_lora_weights.safetensors"
_PARTS = (".lora_A.", ".lora_B.")


def lora_file(path: Path) -> Path:
    """The file that is meant by a file or by the folder that a training script wrote; raises `SubjectError`."""
    found = path / FILE if path.is_dir() else path
    if not found.is_file():
        raise SubjectError(str(path), f"holds no {FILE}")
    return found


def attach_lora(module: Any, family: Family, path: Path) -> None:
    """Put the LoRA of a file onto a denoiser, in place.

    Raises `SubjectError` if it cannot be read, changes a text encoder, or does not fit.
    """
    try:
        import peft  # noqa: F401 - diffusers asks for it in words of its own
    except ImportError as error:
        raise SubjectError(str(path), "a LoRA needs the package peft; pip install peft") from error
    pipeline = getattr(diffusers, family.pipelines[0])
    try:
        found = pipeline.lora_state_dict(
            str(path.parent), weight_name=path.name, local_files_only=True, return_lora_metadata=True
        )
        # Older files say their scale tensor by tensor, newer ones in words that scripts write beside them.
        state, metadata = found[0], found[-1]
        alphas = found[1] if len(found) == 3 else None
        others = sorted({name.split(".")[0] for name in state} - {family.part})
        if others:
            raise SubjectError(
                str(path), f"also changes {', '.join(others)}; only a LoRA of the {family.part} is understood"
            )
        more = {"network_alphas": alphas} if alphas else {"metadata": metadata}
        module.load_lora_adapter(state, prefix=family.part, adapter_name="default", **more)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
        raise SubjectError(str(path), f"is no LoRA of this {family.model}: {error}") from error
    if not lora_modules(module):
        raise SubjectError(str(path), f"holds no weights of the {family.part}")


def lora_modules(module: nn.Module) -> list[str]:
    """Names of a LoRA's own Linear and Conv2d modules; none for a denoiser without."""
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.Conv2d) and any(word in f".{name}." for word in _PARTS)
    ]
