"""Fitting a projection to a corpus: principal components, or what tells items apart but not their copies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attributary_train.towers.rows import FloatArray, unit

from .head import Projection

_Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scatter:
    """Second moments of unit features [N, F] that every fit starts from."""

    mean: _Matrix  # [F]
    total: _Matrix  # [F, F] covariance of the items
    copies: _Matrix  # [F, F] second moment of copy minus original
    concepts: _Matrix  # [F, F] covariance of drawings around their concept's mean

    @classmethod
    def of(
        cls,
        features: FloatArray,
        copies: FloatArray | None = None,
        originals: NDArray[np.int64] | None = None,
        concepts: NDArray[np.int64] | None = None,
    ) -> Scatter:
        """Measure items float32 [N, F]; `copies` [M, F] are changed copies of rows `originals` [M].

        `concepts` [N] numbers what each item shows; concepts with a single item say nothing.
        """
        x = unit(features)
        size = x.shape[1]
        mean = x.mean(axis=0, dtype=np.float64)
        centred = x - mean.astype(np.float32)
        nothing = np.zeros((size, size))
        between = nothing
        if copies is not None and originals is not None and len(copies):
            between = _moment(unit(copies) - x[originals])
        within = nothing
        if concepts is not None:
            _, number, count = np.unique(concepts, return_inverse=True, return_counts=True)
            means = np.zeros((len(count), size))
            np.add.at(means, number, x)
            means /= count[:, None]
            shared = count[number] > 1
            if shared.any():
                within = _moment((x - means[number].astype(np.float32))[shared])
        return cls(mean, _moment(centred), between, within)


@dataclass(frozen=True, slots=True)
class Basis:
    """Directions in which items differ, the widest first; a projection keeps some of them."""

    mean: _Matrix  # [F]
    variance: _Matrix  # [F], descending
    directions: _Matrix  # [F, F], a column each

    def keep(self, dim: int, whitening: float) -> Projection:
        """Keep `dim` directions, each scaled by variance ** (-whitening / 2).

        `whitening` 0 leaves the variances as they are, 1 makes them equal (Jegou and Chum, "Negative evidences
        and co-occurrences in image retrieval", 2012); values between are a partial one.
        """
        if not 1 <= dim <= len(self.variance):
            raise ValueError(f"dim must be 1 to {len(self.variance)}, not {dim}")
        # Directions that hardly vary hold rounding noise; the floor keeps whitening from blowing it up.
        scale = np.maximum(self.variance[:dim], self.variance[0] * 1e-6) ** (-whitening / 2)
        matrix = self.directions[:, :dim] * scale
        # Only the direction of the result counts: a common scale keeps the numbers near 1.
        matrix /= np.abs(matrix).max()
        return Projection(self.mean.astype(np.float32), matrix.astype(np.float32))


def principal(scatter: Scatter) -> Basis:
    """Principal components of the items."""
    return _components(scatter, np.eye(len(scatter.mean)))


def discriminant(scatter: Scatter, concept_weight: float, ridge: float) -> Basis:
    """Whiten what copies (and drawings of one concept) differ in, then find what items differ in.

    The learned whitening of Mikolajczyk and Matas ("Improving descriptors for fast tree matching by optimal linear
    projection", 2007), with the concepts' scatter mixed in by `concept_weight`; `ridge` is relative to the mean
    variance.
    """
    noise = scatter.copies + concept_weight * scatter.concepts
    size, level = len(noise), np.trace(noise)
    noise = noise * (size / level) if level > 0 else np.zeros_like(noise)
    variance, directions = np.linalg.eigh(noise + ridge * np.eye(size))
    return _components(scatter, directions / np.sqrt(variance))


def _components(scatter: Scatter, first: _Matrix) -> Basis:
    """`first` [F, F], then the principal components of what comes out."""
    variance, directions = np.linalg.eigh(first.T @ scatter.total @ first)
    return Basis(scatter.mean, variance[::-1], first @ directions[:, ::-1])


def _moment(rows: FloatArray) -> _Matrix:
    moment: _Matrix = (rows.T @ rows).astype(np.float64) / len(rows)
    return moment
