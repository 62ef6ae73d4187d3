"""Fitting the untuned encoder's head to a corpus, and choosing its form by measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from attributary_train.towers.features import TowerFeatures
from attributary_train.towers.rows import FloatArray

from .head import Head, Projection
from .pictures import Pictures
from .projections import Basis, Scatter, discriminant, principal
from .retrieval import (
    CopyQueries,
    draw_concepts,
    draw_copies,
    measure_concepts,
    measure_copies,
)
from .splits import Split

# Copies that the discriminant is fitted on, and queries of each measurement.
FIT_COPIES = 3000
QUERIES = 500


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """One form of the head."""

    kind: str = "discriminant"  # "raw", "principal", "discriminant"
    image_dim: int = 320
    text_dim: int = 64
    whitening: float = 0.0
    concept_weight: float = 0.5
    ridge: float = 0.1
    text_whitening: float = 0.5
    text_weight: float = 0.6  # the image part's weight is 1


# The text's weight is not among what is searched: other sets name a concept with the same words, so the measure would
# only ever ask for more text, and a prompt would outvote the picture.
CANDIDATES: tuple[HeadSettings, ...] = (
    HeadSettings(),
    HeadSettings(kind="principal", whitening=0.0),
    HeadSettings(kind="principal", whitening=0.5),
    HeadSettings(kind="principal", whitening=1.0),
    HeadSettings(whitening=0.25),
    HeadSettings(whitening=0.5),
    HeadSettings(concept_weight=0.0),
    HeadSettings(concept_weight=0.2),
    HeadSettings(concept_weight=1.0),
    HeadSettings(ridge=0.03),
    HeadSettings(ridge=0.3),
    HeadSettings(image_dim=192, text_dim=192),
    HeadSettings(image_dim=256, text_dim=128),
    HeadSettings(text_whitening=0.0),
)
# Forms that find this share of copies less than the best one are out of the running: copies are what is promised.
COPIES_MARGIN = 0.004


class HeadFitter:
    """Features of a corpus, and of held-out drawings, from which heads are fitted and measured."""

    def __init__(self, towers: TowerFeatures, corpus: Pictures, held_out: Pictures | None = None) -> None:
        self._towers = towers
        self._corpus = corpus
        self._held_out = held_out
        self._image = corpus.image_features(towers)
        self._text = towers.texts(corpus.captions)
        copies = draw_copies(corpus.ids, "fit", FIT_COPIES)
        changed = corpus.copy_features(towers, copies)
        concepts = np.unique(np.array(corpus.concepts), return_inverse=True)[1]
        self._scatter = Scatter.of(self._image, changed, copies.originals, concepts)
        self._text_basis = principal(Scatter.of(self._text))
        self._bases: dict[tuple[str, float, float], Basis] = {}
        self._copies: dict[Split, tuple[CopyQueries, FloatArray]] = {}

    def fit(self, settings: HeadSettings) -> Head:
        """Fit a head of this form."""
        if settings.kind == "raw":
            image = Projection.identity(self._image.shape[1])
            text = Projection.identity(self._text.shape[1])
            return Head(image, text, text_weight=settings.text_weight)
        image = self._image_basis(settings).keep(settings.image_dim, settings.whitening)
        text = self._text_basis.keep(settings.text_dim, settings.text_whitening)
        return Head(image, text, text_weight=settings.text_weight)

    def _image_basis(self, settings: HeadSettings) -> Basis:
        if settings.kind not in ("principal", "discriminant"):
            raise ValueError(f"kind must be raw, principal or discriminant, not {settings.kind!r}")
        if settings.kind == "principal":
            key = ("principal", 0.0, 0.0)
        else:
            key = ("discriminant", settings.concept_weight, settings.ridge)
        # Many forms share a basis, and finding one is the expensive part.
        if key not in self._bases:
            plain = settings.kind == "principal"
            self._bases[key] = principal(self._scatter) if plain else discriminant(self._scatter, *key[1:])
        return self._bases[key]

    def measure(self, head: Head, split: Split) -> dict[str, object]:
        """Both questions of `retrieval.py` on the queries of one split."""
        index = head.apply(self._image, self._text)
        queries, features = self._copy_queries(split)
        results: dict[str, object] = {"dim": head.dim}
        if len(features):
            vectors = head.apply(features, self._no_text(len(features)))
            groups = np.array(self._corpus.groups, np.int64)
            results["copies"] = asdict(measure_copies(index, groups, vectors, queries))
        if self._held_out is not None:
            results.update(self._measure_held_out(head, index, self._held_out, split))
        return results

    def _measure_held_out(
        self, head: Head, index: FloatArray, held_out: Pictures, split: Split
    ) -> dict[str, object]:
        rows = draw_concepts(held_out.concepts, self._corpus.concepts, split)
        if not len(rows):
            return {}
        image = held_out.image_features(self._towers)[rows]
        text = self._towers.texts(held_out.captions)[rows]
        indexed: NDArray[np.str_] = np.array(self._corpus.concepts)
        wanted: NDArray[np.str_] = np.array(held_out.concepts)[rows]
        without = measure_concepts(index, indexed, head.apply(image, self._no_text(len(rows))), wanted)
        with_prompt = measure_concepts(index, indexed, head.apply(image, text), wanted)
        return {"concepts": asdict(without), "concepts_with_prompt": asdict(with_prompt)}

    def _copy_queries(self, split: Split) -> tuple[CopyQueries, FloatArray]:
        if split not in self._copies:
            queries = draw_copies(self._corpus.ids, split, QUERIES)
            self._copies[split] = queries, self._corpus.copy_features(self._towers, queries)
        return self._copies[split]

    def _no_text(self, rows: int) -> FloatArray:
        return np.zeros((rows, self._text.shape[1]), np.float32)


def choose(
    fitter: HeadFitter, candidates: Sequence[HeadSettings] = CANDIDATES, *, max_dim: int = 384
) -> tuple[HeadSettings, list[dict[str, object]]]:
    """Measure each form on the validation queries; returns the best of at most `max_dim` dimensions, and all.

    Best is the highest mean of concepts found without a prompt and with one, among the forms that find nearly as
    many copies as any.
    """
    table: list[dict[str, object]] = []
    running: list[tuple[float, float, HeadSettings]] = []
    for settings in candidates:
        head = fitter.fit(settings)
        measured = fitter.measure(head, "validation")
        table.append({"settings": asdict(settings), **measured})
        if head.dim <= max_dim:
            copies = _figure(measured, "copies", "original_first")
            without = _figure(measured, "concepts", "in_top_10")
            with_prompt = _figure(measured, "concepts_with_prompt", "in_top_10")
            running.append((copies, (without + with_prompt) / 2, settings))
    most = max(copies for copies, _, _ in running)
    near = [entry for entry in running if entry[0] >= most - COPIES_MARGIN]
    return max(near, key=lambda entry: entry[1])[2], table


def _figure(measured: dict[str, object], name: str, key: str) -> float:
    part = measured.get(name)
    return float(part[key]) if isinstance(part, dict) else 0.0
