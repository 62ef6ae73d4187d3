"""Queries that a student is held against: its cosines with every item, and the teacher's mass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attributary.attribution.pixel_statistics import pixel_statistics
from attributary.building.student import StudentFolder
from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer
from attributary.pictures import prepare_pixels
from attributary_train.corpus import Corpus
from attributary_train.errors import CalibrationError, NoLabelError
from attributary_train.evaluation.from_labels import labels_of
from attributary_train.evaluation.opening import Subject
from attributary_train.evaluation.shares import Columns
from attributary_train.generators.latents import decode
from attributary_train.subject.level_queries import DRAWING
from attributary_train.subject.queries import Queries, load_queries
from attributary_train.teacher.labels import Label

from .fit import Target
from .mass import LEVEL, Mass, stand_for, teacher_mass

# With and without a prompt, as in a bundle's manifest.
KINDS = ("image", "image_and_prompt")
Cosines = npt.NDArray[np.float32]


class StudentEncoder:
    """A student's encoder and item vectors, as the server will use them."""

    def __init__(self, folder: StudentFolder, threads: int = 1) -> None:
        self.folder = folder
        self._encoder = OnnxEncoder(folder.encoder_path, threads=threads)
        self._tokenizer = PromptTokenizer.from_file(folder.tokenizer_path, self._encoder.spec.max_tokens)
        self._vectors = folder.vectors.astype(np.float32)

    def embed(self, pictures: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]) -> Cosines:
        """Unit vectors float32 [Q, D] of pictures uint8 [H, W, 3] of any size and prompts, "" for none."""
        parts = []
        for at in range(0, len(pictures), 16):
            pixels = self._prepared(pictures[at : at + 16])
            words = [self._tokenizer.encode(prompt) for prompt in prompts[at : at + 16]]
            ids, mask = self._tokenizer.pad(words)
            parts.append(self._encoder.encode(pixels, ids, mask))
        return np.concatenate(parts)

    def statistics(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """What `attributary.attribution.pixel_statistics` says of pictures, float32 [Q, D]."""
        return np.concatenate(
            [pixel_statistics(self._prepared(pictures[at : at + 64])) for at in range(0, len(pictures), 64)]
        )

    def _prepared(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        size = self._encoder.spec.image_size
        return np.stack([prepare_pixels(np.asarray(one), size) for one in pictures])

    def cosines(self, pictures: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]) -> Cosines:
        """Cosines of every query with every item, float32 [Q, N]."""
        return self.with_items(self.embed(pictures, prompts))

    def with_items(self, embeddings: Cosines) -> Cosines:
        """Cosines with every item, float32 [Q, N], of embeddings [Q, D]."""
        return np.asarray(embeddings @ self._vectors.T, np.float32)


@dataclass(frozen=True)
class Items:
    """The items of a student in its order: near-duplicate groups, creators and captions."""

    ids: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    creators: tuple[str, ...]

    @classmethod
    def of(cls, ids: npt.NDArray[np.int64], corpus: Corpus) -> Items:
        """Raises `CorpusError` for an id that the corpus lacks."""
        found = [corpus.item(int(number)) for number in ids]
        groups = np.array([item.near_dup_group for item in found], np.int64)
        return cls(ids, groups, tuple(item.creator for item in found))


@dataclass(frozen=True)
class Held:
    """Labelled queries of one split. `similarity`: kind -> cosines float32 [Q, N]; `columns`: for each query, the
    column of each of its candidates."""

    queries: Queries
    items: Items
    similarity: Mapping[str, Cosines]
    masses: tuple[Mass, ...]
    columns: tuple[npt.NDArray[np.int64], ...]
    scores: npt.NDArray[np.float32]  # [Q, N], the teacher's; NaN where it was not asked
    labels_digest: str
    failed: int
    statistics: npt.NDArray[np.float32]  # [Q, D] of the pictures

    @property
    def target(self) -> Target:
        """The masses on the matrix of items."""
        return Target.of(self.masses, self.columns, len(self.items.ids))

    @property
    def grouped(self) -> Columns:
        """The items by near-duplicate groups."""
        return Columns.of(self.items.groups)

    @property
    def creator_of_item(self) -> npt.NDArray[np.int64]:
        """A number of each item's creator, int64 [N]."""
        return np.asarray(np.unique(self.items.creators, return_inverse=True)[1], np.int64)

    @property
    def complete(self) -> bool:
        """Whether the teacher was asked about every item."""
        return all(len(places) == len(self.items.ids) for places in self.columns)


@dataclass(frozen=True)
class Generated:
    """Further pictures of the generator, without labels: cosines float32 [n, N] by kind, statistics float32 [n, D]."""

    similarity: Mapping[str, Cosines]
    statistics: npt.NDArray[np.float32]

    @classmethod
    def of(cls, student: StudentEncoder, subject: Subject, query_file: Path) -> Generated:
        """A file's validation queries, real drawings left out."""
        queries = generated_only(subject.queries(query_file, "validation"))
        pictures = list(decode(subject.autoencoder, queries.latents))
        cosines = (
            student.cosines(pictures, [""] * len(pictures)),
            student.cosines(pictures, queries.prompts),
        )
        return cls(dict(zip(KINDS, cosines, strict=True)), student.statistics(pictures))


def open_held(
    student: StudentEncoder,
    subject: Subject,
    query_file: Path,
    labels: Path,
    split: str,
    *,
    level: float = LEVEL,
) -> Held:
    """Read labels, a label factory's folder or a score file, and ask the student. Shares are for what the generator
    made: real drawings among a benchmark's queries are left out.

    Raises `CalibrationError` if labels, student and subject do not belong together, `TeacherError` or
    `EvaluationError` if the labels are another model's or damaged.
    """
    folder = student.folder
    if folder.subject.weights_digest != subject.model.weights:
        raise CalibrationError(
            str(folder.directory),
            f"is a student of model {folder.subject.weights_digest[:12]}, not of {subject.model.weights[:12]}",
        )
    everything = load_queries(query_file, subject.model)
    labelled = [one for one in labels_of(labels, everything, subject.model.weights) if one.split == split]
    place = {name: row for row, name in enumerate(everything.names)}
    missing = [one.query for one in labelled if one.query not in place]
    if missing:
        raise CalibrationError(str(query_file), f"lacks {len(missing)} labelled queries, e.g. {missing[0]}")
    made = set(generated_only(everything).names)
    found = [one for one in labelled if one.query in made]
    usable = [one for one in found if one.error is None]
    if not usable:
        why = f"; {len(found)} failed, e.g. {found[0].error}" if found else ""
        raise NoLabelError(str(labels), f"holds no label of the split {split}{why}")
    if set(folder.ids.tolist()) != set(subject.data.ids.tolist()):
        raise CalibrationError(
            str(folder.directory), "holds vectors of other items than the model was trained on"
        )
    queries = everything.take([place[one.query] for one in usable])
    items = Items.of(folder.ids, subject.corpus)
    pictures = list(decode(subject.autoencoder, queries.latents))
    column = {int(number): at for at, number in enumerate(folder.ids)}
    columns = tuple(np.array([column[int(number)] for number in one.candidates]) for one in usable)
    masses = tuple(_mass(one, places, items, level) for one, places in zip(usable, columns, strict=True))
    similarity = {
        "image": student.cosines(pictures, [""] * len(pictures)),
        "image_and_prompt": student.cosines(pictures, queries.prompts),
    }
    scores = np.full((len(usable), len(items.ids)), np.nan, np.float32)
    for row, (one, places) in enumerate(zip(usable, columns, strict=True)):
        scores[row, places] = one.scores
    digest = labels_digest(usable)
    failed = len(found) - len(usable)
    statistics = student.statistics(pictures)
    return Held(queries, items, similarity, masses, columns, scores, digest, failed, statistics)


def generated_only(queries: Queries) -> Queries:
    """The queries that the generator made: a benchmark's real drawings are none of them."""
    return queries.take([row for row, kind in enumerate(queries.kinds) if kind != DRAWING])


def _mass(label: Label, places: npt.NDArray[np.int64], items: Items, level: float) -> Mass:
    total = len(items.ids)
    nearest = len(label.candidates) if len(label.candidates) == total else label.nearest
    weights = stand_for(len(label.candidates), nearest, total)
    try:
        return teacher_mass(label.scores, weights, items.groups[places], level=level)
    except CalibrationError as error:
        raise CalibrationError(f"label {label.query}, {error.field}", error.reason) from error


def labels_digest(labels: Sequence[Label]) -> str:
    """SHA-256 over queries, candidates and scores of labels, hexadecimal."""
    total = hashlib.sha256()
    for one in sorted(labels, key=lambda label: label.query):
        total.update(one.query.encode())
        total.update(one.candidates.astype("<i8").tobytes())
        total.update(one.scores.astype("<f4").tobytes())
    return total.hexdigest()
