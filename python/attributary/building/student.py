"""A student's folder: an encoder, and vectors of the items that it was distilled for, made offline.

student.json      name, generator, labels, SHA-256 of the files below
encoder.onnx      and possibly encoder.int8.onnx; tokenizer.json
vectors.npy       float16 [N, D], unit rows
ids.npy           int64 [N], the item of each row
calibration.json  how similarities become shares, from `attributary-train calibrate fit`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.bundle import ENCODER, TOKENIZER, VECTORS
from attributary.bundle.files import sha256
from attributary.bundle.manifest import SubjectEntry
from attributary.errors import InvalidArgumentError
from attributary.files import read_facts

STUDENT = "student.json"
IDS = "ids.npy"
NEEDED = (ENCODER, TOKENIZER, VECTORS, IDS)
SCHEMA_VERSION = 1
# Of a squared length: fp16 rounds each of a few hundred components.
_UNIT_TOLERANCE = 1e-2


@dataclass(frozen=True)
class StudentFolder:
    """A student that was read and whose parts belong together."""

    directory: Path
    name: str
    subject: SubjectEntry
    digest: str  # SHA-256 of student.json, which holds those of the other files
    encoder_digest: str
    vectors_digest: str
    labels_digest: str
    corpus_ids_digest: str
    vectors_made_by: Literal["encoder", "trained"]  # "encoder": from each item's picture, as a query's is
    ids: NDArray[np.int64]  # [N]
    vectors: NDArray[np.float16]  # [N, D], unit rows

    @property
    def encoder_path(self) -> Path:
        """The fp32 encoder."""
        return self.directory / ENCODER

    @property
    def tokenizer_path(self) -> Path:
        """The prompt tokenizer."""
        return self.directory / TOKENIZER


def read_student(directory: Path) -> StudentFolder:
    """Read a student's folder; raises InvalidArgumentError naming the file or entry at fault.

    Refused: a file that is not the one whose hash `student.json` holds (an encoder and vectors of two students), rows
    that are not finite or not of unit length, an id that is there twice.
    """
    facts = read_facts(directory / STUDENT, "student", SCHEMA_VERSION)
    files = _entry(facts, "files", dict, directory)
    for name in (*NEEDED, *sorted(set(files) - set(NEEDED))):
        _check_file(directory / name, files.get(name), needed=name in NEEDED)
    subject = _entry(facts, "subject", dict, directory)
    ids, vectors = _load(directory / IDS), _load(directory / VECTORS)
    _check(directory, ids, vectors)
    return StudentFolder(
        directory=directory,
        name=str(_entry(facts, "name", str, directory)),
        subject=SubjectEntry(str(subject.get("id", "")), str(_entry(subject, "weights", str, directory))),
        digest=sha256(directory / STUDENT),
        encoder_digest=sha256(directory / ENCODER),
        vectors_digest=sha256(directory / VECTORS),
        labels_digest=str(_entry(facts, "labels", dict, directory).get("digest", "")),
        corpus_ids_digest=str(_entry(facts, "corpus", dict, directory).get("ids_sha256", "")),
        vectors_made_by="encoder" if facts.get("vectors_made_by") == "encoder" else "trained",
        ids=ids,
        vectors=vectors,
    )


def _check_file(path: Path, entry: Any, needed: bool) -> None:
    """What training alone needs may be left behind; what is there must be the student's own."""
    if entry is None:
        raise InvalidArgumentError("student", f"{path.parent / STUDENT} does not list {path.name}")
    if not path.is_file():
        if needed:
            raise InvalidArgumentError("student", f"{path} is missing")
        return
    wanted, found = str(entry["sha256"] if isinstance(entry, dict) else entry), sha256(path)
    if found != wanted:
        raise InvalidArgumentError(
            "student",
            f"{path} is not of this student: SHA-256 {found[:12]}..., {STUDENT} says {wanted[:12]}...",
        )


def _entry(facts: Mapping[str, Any], name: str, kind: type, directory: Path) -> Any:
    value = facts.get(name)
    if not isinstance(value, kind):
        raise InvalidArgumentError(
            "student", f"{directory / STUDENT}: {name} is missing or no {kind.__name__}"
        )
    return value


def _load(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise InvalidArgumentError("student", f"{path} cannot be read: {error}") from error


def _check(directory: Path, ids: NDArray[Any], vectors: NDArray[Any]) -> None:
    if ids.dtype != np.int64 or ids.ndim != 1 or not len(ids):
        raise InvalidArgumentError(
            "student", f"{directory / IDS} must be int64 [N], is {ids.dtype} {list(ids.shape)}"
        )
    if vectors.dtype != np.float16 or vectors.ndim != 2 or len(vectors) != len(ids):
        raise InvalidArgumentError(
            "student",
            f"{directory / VECTORS} must be float16 [{len(ids)}, D], is {vectors.dtype} {list(vectors.shape)}",
        )
    if len(np.unique(ids)) != len(ids):
        raise InvalidArgumentError("student", f"{directory / IDS} holds an id twice")
    squared = (vectors.astype(np.float32) ** 2).sum(axis=1)
    wrong = ~(np.abs(squared - 1.0) <= _UNIT_TOLERANCE)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InvalidArgumentError(
            "student",
            f"{directory / VECTORS}: {int(wrong.sum())} rows are not of unit length, the first is row {row} "
            f"with {float(squared[row]) ** 0.5:.4f}",
        )
