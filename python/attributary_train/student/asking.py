"""A student's folder asked as the server asks it: ONNX Runtime, uint8 pictures, its tokenizer, stored vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attributary.building.calibration_file import CalibrationFile
from attributary.building.student import read_student
from attributary.bundle.manifest import ShareCalibration
from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer
from attributary.kernels import resize_crop
from attributary_train.errors import StudentError
from attributary_train.evaluation.scores import ScoreFile
from attributary_train.evaluation.shares import Columns, shares_of
from attributary_train.subject.queries import Queries
from attributary_train.teacher.query_digest import query_digests

from .export import ENCODER, TOKENIZER
from .folder import FACTS, VECTORS, read_facts, require_same
from .studio import Studio

Floats = npt.NDArray[np.float32]
_BATCH = 8


class AskedStudent:
    """An exported student. `variant`: another encoder file of the folder, e.g. encoder.int8.onnx.

    Raises `InvalidArgumentError` for a file that is not the one that student.json names, `StudentError` for a variant
    that is missing or of another encoder.
    """

    def __init__(self, folder: Path, variant: str = ENCODER, threads: int = 1) -> None:
        checked = read_student(folder)
        self.facts = read_facts(folder)
        if not (folder / variant).is_file() or variant not in self.facts["files"]:
            raise StudentError(str(folder / variant), f"is missing, or {FACTS} does not list it")
        self.encoder = OnnxEncoder(folder / variant, threads=threads)
        if self.encoder.vectors_of != OnnxEncoder(folder / ENCODER).spec.digest:
            raise StudentError(variant, f"is no variant of {folder / ENCODER}")
        self._tokenizer = PromptTokenizer.from_file(folder / TOKENIZER, self.encoder.spec.max_tokens)
        self.vectors: Floats = checked.vectors.astype(np.float32)
        self.ids: npt.NDArray[np.int64] = checked.ids
        if self.vectors.shape[1] != self.encoder.spec.dim:
            raise StudentError(
                str(folder / VECTORS),
                f"{self.vectors.shape[1]} dimensions, the encoder has {self.encoder.spec.dim}",
            )

    def embed(self, pictures: npt.NDArray[np.uint8], prompts: Sequence[str]) -> Floats:
        """Unit vectors float32 [Q, D] of pictures uint8 [Q, S, S, 3]; an empty prompt is none."""
        size, parts = self.encoder.spec.image_size, []
        for at in range(0, len(pictures), _BATCH):
            pixels = np.stack(
                [resize_crop(np.ascontiguousarray(one), size) for one in pictures[at : at + _BATCH]]
            )
            ids, mask = self._tokenizer.pad(
                [self._tokenizer.encode(prompt) for prompt in prompts[at : at + _BATCH]]
            )
            parts.append(self.encoder.encode(pixels, ids, mask))
        return np.concatenate(parts)

    def scores(self, pictures: npt.NDArray[np.uint8], prompts: Sequence[str]) -> Floats:
        """Inner products with every stored vector, float32 [Q, N]; larger = more influential."""
        return self.embed(pictures, prompts) @ self.vectors.T


def calibration_of(calibration: Path, encoder: str, prompts: bool) -> ShareCalibration:
    """What a calibration file says of queries with or without prompts; raises `StudentError` if it was fitted to an
    encoder of another digest."""
    read = CalibrationFile.read(calibration)
    if read.encoder_digest != encoder:
        raise StudentError(
            str(calibration), f"was fitted to encoder {read.encoder_digest[:12]}, not to {encoder[:12]}"
        )
    return read.calibration.of(prompts)


def score_file(
    studio: Studio,
    folder: Path,
    queries: Queries,
    *,
    variant: str = ENCODER,
    prompts: bool = True,
    name: str = "",
    calibration: Path | None = None,
) -> ScoreFile:
    """A student's answer to queries as every protocol of the evaluation reads it.

    With a `calibration` scores are the shares that are served, of all items as candidates and whatever the flag says:
    what is paid, and may be added up, as LDS does. Raises `StudentError` if the student is of another generator or of
    other items, or if the calibration is of another encoder.
    """
    student = AskedStudent(folder, variant)
    require_same(student.facts, studio.subject.model.weights, student.ids)
    require_same(student.facts, studio.subject.model.weights, studio.subject.data.ids)
    prompts_used = queries.prompts if prompts else ("",) * len(queries)
    found = student.scores(studio.pictures(queries), prompts_used)
    if calibration is not None:
        told = calibration_of(calibration, student.facts["files"][ENCODER]["sha256"], prompts)
        corpus = studio.subject.corpus
        groups = Columns.of([corpus.item(int(number)).near_dup_group for number in student.ids])
        found = shares_of(found, groups, told)[0].astype(np.float32)
    called = name or f"student{'' if prompts else ' without prompt'}"
    facts = {
        "student": student.facts["name"],
        "variant": variant,
        "prompts": prompts,
        "shares": calibration is not None,
        "splits": sorted(set(queries.splits)),
    }
    return ScoreFile(
        called, found, queries.names, student.ids, queries.weights, facts, query_digests(queries)
    )
