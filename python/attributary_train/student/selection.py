"""Fitting the untuned encoder's head to a corpus, and choosing its form by measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ..evaluation.retrieval import (
    CopyQueries,
    Split,
    draw_concepts,
    draw_copies,
    measure_concepts,
    measure_copies,
)
from .features import TowerFeatures
from .head import FloatArray, Head, Projection
from .pictures import Pictures
from .projections import Scatter, fit_discriminant, fit_principal

# Copies that the discriminant is fitted on, and queries of each measurement.
FIT_COPIES = 3000
QUERIES = 500


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """One form of the head."""

    kind: str = "discriminant"  # "raw", "principal", "discriminant"
    image_dim: int = 256
    text_dim: int = 128
    whitening: float = 0.0
    concept_weight: float = 0.2
    ridge: float = 0.1
    text_whitening: float = 0.0
    text_weight: float = 0.6  # the image part's weight is 1


CANDIDATES: tuple[HeadSettings, ...] = (
    HeadSettings(),
    HeadSettings(kind="principal", whitening=0.0),
    HeadSettings(kind="principal", whitening=0.5),
    HeadSettings(kind="principal", whitening=1.0),
    HeadSettings(whitening=0.5),
    HeadSettings(concept_weight=0.0),
    HeadSettings(concept_weight=1.0),
    HeadSettings(ridge=0.03),
    HeadSettings(ridge=0.3),
    HeadSettings(image_dim=192, text_dim=64),
    HeadSettings(image_dim=192, text_dim=192),
    HeadSettings(image_dim=320, text_dim=64),
    HeadSettings(text_whitening=0.5),
    HeadSettings(text_weight=0.4),
    HeadSettings(text_weight=1.0),
)


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
        self._text_scatter = Scatter.of(self._text)
        self._copies: dict[Split, tuple[CopyQueries, FloatArray]] = {}

    def fit(self, settings: HeadSettings) -> Head:
        """Fit a head of this form."""
        if settings.kind == "raw":
            image = Projection.identity(self._image.shape[1])
            text = Projection.identity(self._text.shape[1])
            return Head(image, text, text_weight=settings.text_weight)
        if settings.kind == "principal":
            image = fit_principal(self._scatter, settings.image_dim, settings.whitening)
        elif settings.kind == "discriminant":
            image = fit_discriminant(
                self._scatter, settings.image_dim, settings.whitening, settings.concept_weight, settings.ridge
            )
        else:
            raise ValueError(f"kind must be raw, principal or discriminant, not {settings.kind!r}")
        text = fit_principal(self._text_scatter, settings.text_dim, settings.text_whitening)
        return Head(image, text, text_weight=settings.text_weight)

    def measure(self, head: Head, split: Split) -> dict[str, object]:
        """Both questions of `evaluation.retrieval` on the queries of one split."""
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

    Best is the highest mean of copies found first, concepts found without a prompt, and concepts with one.
    """
    table: list[dict[str, object]] = []
    best, best_score = candidates[0], -1.0
    for settings in candidates:
        head = fitter.fit(settings)
        measured = fitter.measure(head, "validation")
        score = _score(measured)
        table.append({"settings": asdict(settings), "score": score, **measured})
        if head.dim <= max_dim and score > best_score:
            best, best_score = settings, score
    return best, table


def _score(measured: dict[str, object]) -> float:
    figures = []
    for name, key in (
        ("copies", "original_first"),
        ("concepts", "in_top_10"),
        ("concepts_with_prompt", "first"),
    ):
        part = measured.get(name)
        if isinstance(part, dict):
            figures.append(float(part[key]))
    return float(np.mean(figures)) if figures else 0.0
