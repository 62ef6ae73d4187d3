"""A student's folder: what training hands over to serving. The format is that of `attributary.building.student`.

student.json     name, configuration, hashes of generator, items, labels and files; what was measured
encoder.onnx     and variants; tokenizer.json
vectors.npy      float16 [N, D], unit rows; ids.npy int64 [N], the item of each row
head.pt          weights of the head (a student on the untuned towers) or of the network (compact), for training on
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary.bundle.files import sha256
from attributary_train.errors import StudentError
from attributary_train.files import reading, write_text

from .export import ENCODER, TOKENIZER, file_facts

SCHEMA_VERSION = 1
FACTS, VECTORS, IDS, HEAD = "student.json", "vectors.npy", "ids.npy", "head.pt"


@dataclass(frozen=True)
class Handover:
    """Names and hashes that tie a student to what it was made for."""

    name: str
    kind: str
    config: Mapping[str, Any]
    weights: str
    subject: str
    labels: str
    queries: int


def ids_digest(ids: npt.NDArray[np.int64]) -> str:
    """SHA-256 over the item ids in order, hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(ids, np.int64).tobytes()).hexdigest()


def write_folder(
    folder: Path,
    about: Handover,
    ids: npt.NDArray[np.int64],
    vectors: npt.NDArray[np.float32],
    head: Mapping[str, Tensor],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Write vectors, ids, head and student.json beside an exported encoder; returns what student.json holds.

    Raises `StudentError` if vectors are not finite rows of unit length, one an item.
    """
    if vectors.shape[0] != len(ids) or not np.isfinite(vectors).all():
        raise StudentError("vectors", f"shape {vectors.shape} for {len(ids)} items, all must be finite")
    if np.abs(np.square(vectors).sum(1) - 1.0).max() > 1e-3:
        raise StudentError("vectors", "are not all of unit length")
    np.save(folder / VECTORS, vectors.astype(np.float16))
    np.save(folder / IDS, np.asarray(ids, np.int64))
    torch.save(dict(head), folder / HEAD)
    names = [ENCODER, TOKENIZER, VECTORS, IDS, HEAD]
    names += sorted(path.name for path in folder.glob("encoder.*.onnx"))
    facts = {
        "schema_version": SCHEMA_VERSION,
        "name": about.name,
        "kind": about.kind,
        "config": dict(about.config),
        "dim": int(vectors.shape[1]),
        "subject": {"id": about.subject, "weights": about.weights},
        "corpus": {"ids_sha256": ids_digest(ids), "items": len(ids)},
        "labels": {"digest": about.labels, "queries": about.queries},
        "files": {name: file_facts(folder / name) for name in names if (folder / name).exists()},
        **extra,
    }
    write_text(folder / FACTS, json.dumps(facts, indent=2) + "\n", StudentError)
    return facts


def read_facts(folder: Path) -> dict[str, Any]:
    """What student.json holds; raises `StudentError` if it is not there or of another version."""
    with reading(folder / FACTS, StudentError):
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
        version = facts["schema_version"]
        for entry in ("name", "kind", "dim", "config", "subject", "corpus", "labels", "files"):
            facts[entry]
    if version != SCHEMA_VERSION:
        raise StudentError(str(folder / FACTS), f"schema version {version}; this reads {SCHEMA_VERSION}")
    return facts


def require_same(facts: Mapping[str, Any], weights: str, ids: npt.NDArray[np.int64]) -> None:
    """Raises `StudentError` if a student is of another generator or of other items, or does not say of which."""
    try:
        made_for, found = str(facts["subject"]["weights"]), str(facts["corpus"]["ids_sha256"])
        known = int(facts["corpus"]["items"])
    except (KeyError, TypeError, ValueError) as error:
        raise StudentError(FACTS, f"does not say what the student was made for: {error!r}") from error
    if made_for != weights:
        raise StudentError("student", f"was made for model {made_for[:12]}, not for {weights[:12]}")
    if found != ids_digest(ids):
        raise StudentError(
            "student",
            f"knows {known} items that are not the {len(ids)} of this training set",
        )


def read_head(folder: Path) -> dict[str, Tensor]:
    """Weights for training on; raises `StudentError` if the file is not the one that student.json names."""
    path = folder / HEAD
    wanted = read_facts(folder)["files"].get(HEAD, {}).get("sha256")
    if not path.is_file() or sha256(path) != wanted:
        raise StudentError(str(path), f"is missing or not the file that {FACTS} names")
    loaded: dict[str, Tensor] = torch.load(path, weights_only=True)
    return loaded
