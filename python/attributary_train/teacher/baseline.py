"""Losses of the training set before any step: taken once, and kept beside a digest of what they are losses of."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attributary_train.errors import TeacherError
from attributary_train.files import whole, write_text
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel

_ROWS = 1024


def baseline_digest(model: SubjectModel, data: SubjectData, grid: Sequence[int]) -> str:
    """SHA-256 of everything that decides the losses: model, items in their order, and the numbers of the loss grid."""
    total = hashlib.sha256(json.dumps([model.weights, data.prompts, list(grid)]).encode())
    total.update(np.ascontiguousarray(data.ids).tobytes())
    if data.captions is not None:
        total.update(data.captions.words().encode())
    for part in (data.latents, data.text):
        # Mapped from a file they may be more than memory holds.
        for at in range(0, len(part), _ROWS):
            total.update(part[at : at + _ROWS].contiguous().cpu().numpy().tobytes())
    return total.hexdigest()


def kept_baseline(path: Path, about: str, take: Callable[[], Tensor]) -> Tensor:
    """Losses float32 [N, T] from `path` (.npy), or from `take` if they are not there, damaged or of something else.

    Beside them lies <path>.json: `about`, and the hash of the losses it belongs to, so that two files that were written
    at different times are not taken for a pair. Raises `TeacherError` if they cannot be written.
    """
    facts = path.with_suffix(".json")
    try:
        raw, facts_read = path.read_bytes(), json.loads(facts.read_text())
        if facts_read == {"about": about, "losses": hashlib.sha256(raw).hexdigest()}:
            return torch.from_numpy(np.load(io.BytesIO(raw)))
    except (OSError, ValueError):
        pass
    found = take()
    stream = io.BytesIO()
    np.save(stream, found.numpy())
    raw = stream.getvalue()
    with whole(path, TeacherError) as file:
        file.write(raw)
    facts_read = {"about": about, "losses": hashlib.sha256(raw).hexdigest()}
    write_text(facts, json.dumps(facts_read) + "\n", TeacherError)
    return found
