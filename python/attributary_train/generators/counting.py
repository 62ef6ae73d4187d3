"""Passes of denoisers, counted, so that what was used can be told beside what was planned."""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path

import torch

# A folder: a process that ends leaves its count there.
VARIABLE = "ATTRIBUTARY_PASSES"
# Forward and backward together cost about three forward passes.
BACKWARD = 3


class _Count:
    rows = 0


def count_rows(rows: int) -> None:
    """Note a pass over so many rows; one that autograd follows counts for `BACKWARD`."""
    if _Count.rows == 0 and VARIABLE in os.environ:
        atexit.register(_leave, Path(os.environ[VARIABLE]))
    _Count.rows += rows * (BACKWARD if torch.is_grad_enabled() else 1)


def _leave(folder: Path) -> None:
    (folder / f"{os.getpid()}.json").write_text(json.dumps(_Count.rows))
