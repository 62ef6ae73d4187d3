"""Saved states of training: what goes wrong with one becomes a `SubjectError` that names it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from attributary_train.errors import SubjectError


def load_state(path: Path) -> dict[str, Any]:
    """What torch.save wrote, on the CPU; raises `SubjectError` for an empty, torn or foreign file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise SubjectError(
            str(path), f"not a readable checkpoint; remove it to begin again: {error}"
        ) from error
    if not isinstance(state, dict):
        raise SubjectError(str(path), f"holds a {type(state).__name__}, not a checkpoint")
    return state
