"""Fitting a projection to a corpus: principal components, or what tells items apart but not their copies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .head import FloatArray, Projection, unit

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


def fit_principal(scatter: Scatter, dim: int, whitening: float) -> Projection:
    """PCA kept to `dim` directions, each scaled by variance ** (-whitening / 2).

    `whitening` 0 is plain PCA, 1 full whitening (Jegou and Chum, "Negative evidences and co-occurrences in
    image retrieval", 2012); values between are a partial one.
    """
    return _project(scatter, np.eye(len(scatter.mean)), dim, whitening)


def fit_discriminant(
    scatter: Scatter, dim: int, whitening: float, concept_weight: float, ridge: float
) -> Projection:
    """Whiten what copies (and drawings of one concept) differ in, then keep what items differ in.

    The learned whitening of Mikolajczyk and Matas ("Improving descriptors for fast tree matching by optimal
    linear projection", 2007), with the concepts' scatter mixed in by `concept_weight`; `ridge` is relative
    to the mean variance.
    """
    noise = scatter.copies + concept_weight * scatter.concepts
    size = len(noise)
    level = np.trace(noise)
    noise = noise * (size / level) if level > 0 else np.zeros_like(noise)
    variance, directions = np.linalg.eigh(noise + ridge * np.eye(size))
    return _project(scatter, directions / np.sqrt(variance), dim, whitening)


def _project(scatter: Scatter, first: _Matrix, dim: int, whitening: float) -> Projection:
    """`first` [F, F], then the principal components of what comes out."""
    if not 1 <= dim <= first.shape[1]:
        raise ValueError(f"dim must be 1 to {first.shape[1]}, not {dim}")
    variance, directions = np.linalg.eigh(first.T @ scatter.total @ first)
    order = np.argsort(variance)[::-1][:dim]
    # Directions that hardly vary hold rounding noise; the floor keeps whitening from blowing it up.
    scale = np.maximum(variance[order], variance.max() * 1e-6) ** (-whitening / 2)
    matrix = first @ (directions[:, order] * scale)
    # Only the direction of the result counts: a common scale keeps the numbers near 1.
    matrix /= np.abs(matrix).max()
    return Projection(scatter.mean.astype(np.float32), matrix.astype(np.float32))


def _moment(rows: FloatArray) -> _Matrix:
    moment: _Matrix = (rows.T @ rows).astype(np.float64) / len(rows)
    return moment
