"""One logged query asked twice: of the bundle, as the server would, and of the teacher, on what the bundle named."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from attributary.attribution.engine import Engine
from attributary.attribution.open import open_engine
from attributary.attribution.types import Attribution, Options, Query
from attributary.errors import AttributaryError
from attributary.pictures import decode as decode_picture
from attributary_train.audit.log import Logged
from attributary_train.calibration.agreement import CANDIDATES, OUTSIDE, agree_on
from attributary_train.calibration.mass import LEVEL, stand_for, teacher_mass
from attributary_train.errors import AuditError, CalibrationError, SubjectError, TeacherError
from attributary_train.evaluation.opening import Subject
from attributary_train.generators.latents import decode, encode
from attributary_train.subject.queries import Queries
from attributary_train.teacher.base import Attributor

Row = dict[str, Any]
# One bad query does not end an audit: its row says what was wrong.
_QUERY_ERRORS = (
    AttributaryError,
    AuditError,
    CalibrationError,
    SubjectError,
    TeacherError,
    ValueError,
    RuntimeError,
    MemoryError,
)


@dataclass(frozen=True)
class AuditSettings:
    """`candidates`: items that the bundle names and the teacher is asked about; `outside`: random others, from which
    the floor of influence and what was missed are known; `level`: as in `calibration.mass`; `seed`: of the others."""

    candidates: int = CANDIDATES
    outside: int = OUTSIDE
    level: float = LEVEL
    seed: int = 0

    def __post_init__(self) -> None:
        AuditError.if_below(10, candidates=self.candidates)
        AuditError.if_below(20, outside=self.outside)


class Auditor:
    """A bundle, its subject and a fitted teacher. Raises `AuditError` if the bundle is of another generator."""

    def __init__(self, bundle: Path, subject: Subject, teacher: Attributor, settings: AuditSettings) -> None:
        self.engine: Engine = open_engine(bundle)
        self.subject, self.teacher, self.settings = subject, teacher, settings
        made_for = self.engine.bundle.manifest.subject
        if made_for.weights_digest != subject.model.weights:
            raise AuditError(
                "bundle",
                f"attributes the generator {made_for.id!r} ({made_for.weights_digest[:12] or 'none'}), not "
                f"{subject.model.weights[:12]}",
            )
        self._known = set(subject.data.ids.tolist())

    def ask(self, logged: Logged) -> Row:
        """The audit's row of one query; what is wrong with the query itself is recorded, not raised."""
        began, spent = time.perf_counter(), time.process_time()
        try:
            row = self._ask(logged)
        except _QUERY_ERRORS as error:
            row = {"id": logged.id, "error": str(error) or repr(error)}
        return {
            **row,
            "seconds": round(time.perf_counter() - began, 3),
            "cpu_seconds": round(time.process_time() - spent, 3),
        }

    def _ask(self, logged: Logged) -> Row:
        query, latent = self._both(logged)
        count = min(self.settings.candidates, self.engine.snapshot.item_count)
        answer = self.engine.attribute(query, Options(top_k=count, top_creators=0))
        served = [item for item in answer.items if item.id in self._known]
        ids = np.array([item.id for item in served], np.int64)
        if len(ids) < 2:
            raise AuditError("candidates", f"{len(ids)} of those named are in the training set; 2 are needed")
        others = self._others(logged.id, ids)
        scores = self.teacher.score(self._as_query(logged, latent), np.concatenate([ids, others]))[0]
        groups = self._groups(np.concatenate([ids, others]))
        mass = teacher_mass(
            scores, stand_for(len(scores), len(ids), len(self._known)), groups, level=self.settings.level
        )
        agreement = agree_on(
            np.array([item.similarity for item in served]),
            np.array([item.share for item in served]),
            answer.diffuse_share,
            scores[: len(ids)],
            mass.items[: len(ids)],
            mass.diffuse,
            scores[len(ids) :],
        )
        return {
            "id": logged.id,
            "error": None,
            "prompt": logged.prompt,
            "rank_correlation": agreement.rank_correlation,
            "overlap_at_10": agreement.overlap_at_10,
            "share_difference": agreement.share_difference,
            "diffuse": answer.diffuse_share,
            "teacher_diffuse": mass.diffuse,
            "out_of_distribution": answer.out_of_distribution,
            "unknown_to_teacher": len(answer.items) - len(served),
            "items": _items(answer, self._known, scores, mass.items),
        }

    def _both(self, logged: Logged) -> tuple[Query, Tensor]:
        """What the bundle is asked, and the latent that the teacher unlearns, float32 [1, C, h, w]."""
        subject = self.subject
        shape = tuple(subject.data.latents.shape[1:])
        if logged.latent is not None:
            if len(logged.latent) != int(np.prod(shape)) * 4:
                raise AuditError(
                    "latent",
                    f"{len(logged.latent)} bytes; float32 {list(shape)} has {int(np.prod(shape)) * 4}",
                )
            values = np.frombuffer(logged.latent, np.float32).reshape((1, *shape)).copy()
            if not np.isfinite(values).all():
                raise AuditError("latent", "holds values that are not finite")
            latent = torch.from_numpy(values)
            pixels = decode(subject.autoencoder, latent)[0]
            return Query(pixels=pixels, prompt=logged.prompt), latent
        if logged.image is None:
            raise AuditError("image", "is null")
        square = _square(decode_picture(logged.image, field="image"), subject.recipe.image_size)
        return Query(image=logged.image, prompt=logged.prompt), encode(subject.autoencoder, square[None])

    def _as_query(self, logged: Logged, latent: Tensor) -> Queries:
        model = self.subject.model
        return Queries(
            names=(logged.id,),
            splits=("test",),
            kinds=("unseen",),
            prompts=(logged.prompt,),
            seeds=(0,),
            latents=latent,
            text=model.token_states([logged.prompt], self.subject.recipe.tokens),
            weights=model.weights,
            steps=0,
            guidance=0.0,
        )

    def _others(self, name: str, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Random items that were not named, the same for a query whenever it is audited."""
        rest = np.setdiff1d(self.subject.data.ids, ids)
        seed = hashlib.blake2b(f"{self.settings.seed}\t{name}".encode(), digest_size=8).digest()
        pick = np.random.default_rng(int.from_bytes(seed, "little")).permutation(len(rest))
        return np.asarray(rest[np.sort(pick[: self.settings.outside])], np.int64)

    def _groups(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        corpus = self.subject.corpus
        return np.array([corpus.item(int(number)).near_dup_group for number in ids], np.int64)


def _items(
    answer: Attribution, known: set[int], scores: npt.NDArray[np.float32], mass: npt.NDArray[np.float64]
) -> list[Row]:
    rows, at = [], 0
    for item in answer.items:
        row: Row = {
            "id": item.id,
            "similarity": item.similarity,
            "share": item.share,
            "score": None,
            "mass": None,
        }
        if item.id in known:
            row |= {"score": float(scores[at]), "mass": float(mass[at])}
            at += 1
        rows.append(row)
    return rows


def _square(pixels: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The central square at the generator's size: a generator's own output comes through as it is."""
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    picture = Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side]))
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))
