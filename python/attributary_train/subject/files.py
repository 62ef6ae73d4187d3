"""Files of subject models: what goes wrong with one becomes a `SubjectError` that names it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from attributary_train.subject.errors import SubjectError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `SubjectError` naming `path` if what is written inside fails: a full disk, a folder without permission."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise SubjectError(str(path), f"cannot be written: {error}") from error
    except RuntimeError as error:
        # How torch.save reports a full disk.
        if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        raise SubjectError(str(path), f"cannot be written: {error}") from error


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
