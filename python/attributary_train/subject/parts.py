"""Parts of a diffusers pipeline, read from their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from attributary_train.errors import SubjectError


def open_part(kind: Any, folder: Path) -> Any:
    """A model of diffusers from its folder, float32; raises `SubjectError` if it is damaged or lacks weights."""
    try:
        model, info = kind.from_pretrained(
            folder, torch_dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise SubjectError(str(folder), f"not a readable {kind.__name__}: {error}") from error
    # diffusers leaves what is missing as chance made it, with a warning.
    if info["missing_keys"]:
        raise SubjectError(str(folder), f"lacks weights of {kind.__name__}, e.g. {min(info['missing_keys'])}")
    return model
