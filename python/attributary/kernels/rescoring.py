"""Exact re-scoring of candidates: the typed face of the rescore kernel."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import reference
from .dispatch import NUMPY, KernelArgumentError, active, native
from .types import (
    CALIBRATION,
    BoolBitmap,
    Float16Array,
    Float32Array,
    Int8Array,
    Int32Array,
    Int64Array,
    Rescored,
)

MAX_ROWS: Final = 2**31 - 1
MAX_REACH: Final = 2**24  # a float32 counts no further
# What each value of a calibration may be, both ends included: what is checked of every query before any is named.
_TINY, _BELOW_1 = np.nextafter(np.float32(0), np.float32(1)), np.nextafter(np.float32(1), np.float32(0))
_MOST = np.finfo(np.float32).max
_RANGES: Final = {
    "temperature": (_TINY, _MOST, "must be finite and above 0"),
    "threshold": (0, _BELOW_1, "must be at least 0 and below 1"),
    "background": (-np.inf, _MOST, "must be finite or minus infinity"),
    "floor": (0, _BELOW_1, "must be at least 0 and below 1"),
    "foreign_below": (-np.inf, np.inf, "must be a number"),
    "margin": (0, _MOST, "must be finite and at least 0"),
    "reach": (0, MAX_REACH, f"must be from 0 to {MAX_REACH}"),
    "reach_cut": (0, 1, "must be at least 0 and at most 1"),
    "reach_null": (_TINY, _MOST, "must be finite and above 0"),
}
_LOWEST, _HIGHEST = np.array([_RANGES[name][:2] for name in CALIBRATION], np.float32).T

Scalar = TypeVar("Scalar", bound=np.generic)


def rescore(
    queries: Float32Array,
    candidates: Int64Array,
    vectors: Float16Array | Int8Array,
    creators: Int32Array,
    groups: Int32Array,
    calibration: Float32Array,
    *,
    top_k: int,
    top_creators: int,
    visible: BoolBitmap | None = None,
    scales: Float32Array | None = None,
    out: Rescored | None = None,
    threads: int = 1,
) -> Rescored:
    """Exact similarities, top-k, calibrated shares and creator totals of each query's candidates.

    | argument | dtype, shape | meaning |
    | --- | --- | --- |
    | queries | float32 [Q, D] | unit vectors; finite |
    | candidates | int64 [Q, R] | rows from the index; -1 (any negative) is no candidate, repeats count once |
    | vectors | float16 or int8 [N, D] | the bundle's store, unit vectors; may be memory-mapped; never copied |
    | creators | int32 [N] | creator code of each row |
    | groups | int32 [N] | near-duplicate group of each row; a row of its own has a code of its own |
    | calibration | float32 [Q, 9] | T, c above 0; u, f in [0, 1); b below infinity; s_min; h, K from 0; a to 1 |
    | visible | uint8 [ceil(N / 8)] | bitmap over the rows, least significant bit first; a 0 bit hides the row |
    | scales | float32 [N] | only with int8 vectors: a vector is its scale times its codes |

    **Share.** With s_i the inner product of the query and candidate i, and m = max(max_i s_i, b):

        w_i = max(exp((s_i - m) / T) - max(u, a exp((s_K - m) / T)), 0)   weight of a candidate; 0 unless s_i > s_K
        w_0 = exp((b - m) / T) + c exp((s_K - m) / T)        weight of the null item
        W_g = max of w_i over the members i of group g       a near-duplicate group counts once
        n = (1 - f) min(max((max_i s_i - s_min) / h, 0), 1)  what the items may have at most; 1 - f where h is 0
        share_i = n (w_i / sum of w_j over j in g) * W_g / (w_0 + sum over groups of W_g)
        diffuse = 1 - n + n w_0 / (w_0 + sum over groups of W_g)
        withheld = sum of share_i over the candidates that are not visible

    so that the shares of visible candidates, `diffuse` and `withheld` add up to 1. The sum runs over *all* R
    candidates, not over the k returned and not over the visible ones: hiding an item raises nobody's share. A query
    whose best similarity is below s_min resembles nothing known: its shares are 0 and `diffuse` is 1. From there on
    they rise with the best similarity, whole at s_min + h.
    s_K is the similarity of the best member of group K + 1, groups in the order of their best members: only K groups
    get a share. Each loses the part a of that group's weight, and what lies beyond is nobody's: as much as c such
    groups. Equals of that group are out of reach as well, so that a crowd of equals is nobody's. The last of the K gets
    at most (1 - a) / (1 - a + c), with a = 1 next to nothing. Without so many groups, or where K is 0, s_K is minus
    infinity: nobody is out of reach.
    This is the calibrated soft score of Attribution by Customization (Wang et al., ICCV 2023): a softmax with a
    learned temperature, cut below a learned threshold. The null item (b), the floor (f), the reach (K) and the groups
    are this project's additions: the first two let the shares say "nobody in particular", the third leaves what is
    faint to nobody, the last keeps copies from multiplying a claim. A share below the smallest normal float32
    (1.2e-38) is 0.

    Items come by descending similarity, equal ones by ascending row; creators by descending total, equal ones by
    ascending code. A similarity is summed in float32 in an order of each instruction set's own, so that paths
    differ in the last bits; on one path the same vectors always give the same bits.

    `out`, where given, is filled and returned. `threads` is how many threads share the queries (0: one a core).
    Warm calls allocate nothing but the result; the GIL is released.

    Raises `KernelArgumentError` (a `ValueError`) for a wrong dtype, shape or value, `IndexError` for a candidate at
    or above N, and `ValueError` where a similarity is not finite.
    """
    return _answer(
        queries, vectors, scales, None, candidates, creators, groups, calibration,
        top_k=top_k, top_creators=top_creators, visible=visible, out=out, threads=threads,
    )  # fmt: skip


def share(
    candidates: Int64Array,
    similarity: Float32Array,
    creators: Int32Array,
    groups: Int32Array,
    calibration: Float32Array,
    *,
    top_k: int,
    top_creators: int,
    visible: BoolBitmap | None = None,
    out: Rescored | None = None,
    threads: int = 1,
) -> Rescored:
    """`rescore` where the similarities are known already, float32 [Q, R] beside `candidates`.

    Of a repeated candidate the first counts. Raises as `rescore` does.
    """
    return _answer(
        None, None, None, similarity, candidates, creators, groups, calibration,
        top_k=top_k, top_creators=top_creators, visible=visible, out=out, threads=threads,
    )  # fmt: skip


def rank(
    queries: Float32Array,
    candidates: Int64Array,
    vectors: Float16Array | Int8Array,
    *,
    top_k: int,
    allowed: BoolBitmap | None = None,
    scales: Float32Array | None = None,
    threads: int = 1,
) -> tuple[Int64Array, Float32Array]:
    """The best `top_k` candidates of each query by exact similarity: rows int64 [Q, k], similarities float32 [Q, k].

    Arguments, order and errors are those of `rescore`, but a row whose bit in `allowed` is 0 is no candidate at all.
    Unused places hold -1 and 0.
    """
    dim, rows = _check_store(vectors, scales)
    queries = check_queries(queries, dim)
    candidates = check_array("candidates", candidates, np.int64, (len(queries), None))
    if allowed is not None:
        allowed = check_array("allowed", allowed, np.uint8, ((rows + 7) // 8,))
    _check_counts(top_k=top_k, threads=threads)
    found = np.full((len(queries), top_k), -1, np.int64)
    similarity = np.zeros((len(queries), top_k), np.float32)
    isa, module = active(), native()[0]
    if module is None or isa == NUMPY:
        reference.rank(queries, candidates, vectors, allowed, scales, found, similarity)
    elif not module.rank(vectors, scales, queries, candidates, allowed, found, similarity, isa, threads):
        raise RuntimeError("the extension refused arguments that its Python face had checked")
    return found, similarity


def _answer(
    queries: Float32Array | None,
    vectors: Float16Array | Int8Array | None,
    scales: Float32Array | None,
    similarity: Float32Array | None,
    candidates: Int64Array,
    creators: Int32Array,
    groups: Int32Array,
    calibration: Float32Array,
    *,
    top_k: int,
    top_creators: int,
    visible: BoolBitmap | None,
    out: Rescored | None,
    threads: int,
) -> Rescored:
    _check_counts(top_k=top_k, top_creators=top_creators, threads=threads)
    isa, module = active(), native()[0]
    compiled = module is not None and isa != NUMPY
    if compiled:
        # The extension checks everything in a fraction of the time. What it refuses is looked at below: to be
        # converted, or to say what is wrong.
        given = queries if queries is not None else similarity
        place = out if out is not None else Rescored.room(len(given), top_k, top_creators)  # type: ignore[arg-type]
        inputs = (vectors, scales, queries, similarity, candidates, creators, groups, calibration, visible)
        if place.rows.shape[1:] == (top_k,) and place.creators.shape[1:] == (top_creators,):
            try:
                if module.rescore(*inputs, *place.arrays, isa, threads):  # type: ignore[union-attr]
                    return place
            except TypeError:
                pass
    if queries is not None:
        assert vectors is not None
        dim, rows = _check_store(vectors, scales)
        queries = check_queries(queries, dim)
        count = len(queries)
    else:
        assert similarity is not None
        similarity = check_array("similarity", similarity, np.float32, (None, None))
        count, rows = len(similarity), len(creators)
    candidates = check_array("candidates", candidates, np.int64, (count, None))
    if similarity is not None and similarity.shape != candidates.shape:
        raise KernelArgumentError("similarity", f"must have shape {list(candidates.shape)}")
    creators = check_array("creators", creators, np.int32, (rows,), exact=True)
    groups = check_array("groups", groups, np.int32, (rows,), exact=True)
    calibration = check_array("calibration", calibration, np.float32, (count, len(CALIBRATION)))
    check_calibration(calibration)
    if visible is not None:
        visible = check_array("visible", visible, np.uint8, ((rows + 7) // 8,))
    out = (
        Rescored.empty(count, top_k, top_creators) if out is None else _reset(out, count, top_k, top_creators)
    )
    inputs = (vectors, scales, queries, similarity, candidates, creators, groups, calibration, visible)
    if not compiled:
        reference.answer(*inputs, out)
    elif not module.rescore(*inputs, *out.arrays, isa, threads):  # type: ignore[union-attr]
        raise RuntimeError("the extension refused arguments that its Python face had checked")
    return out


def _check_store(vectors: Float16Array | Int8Array, scales: Float32Array | None) -> tuple[int, int]:
    """Return (D, N). The store is refused rather than converted: a copy of it could be as large as the memory."""
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype not in (np.float16, np.int8):
        raise KernelArgumentError("vectors", "must be a float16 or int8 array of shape [N, D]")
    if not vectors.flags.c_contiguous:
        raise KernelArgumentError("vectors", "must be C-contiguous; it is never copied")
    if len(vectors) > MAX_ROWS:
        raise KernelArgumentError("vectors", f"{len(vectors)} rows; must be at most {MAX_ROWS}")
    if vectors.dtype == np.int8 and scales is None:
        raise KernelArgumentError("scales", "int8 vectors need one scale a row")
    if vectors.dtype != np.int8 and scales is not None:
        raise KernelArgumentError("scales", "only int8 vectors have scales")
    if scales is not None and (
        not isinstance(scales, np.ndarray)
        or scales.dtype != np.float32
        or scales.shape != (len(vectors),)
        or not scales.flags.c_contiguous
    ):
        raise KernelArgumentError("scales", f"must be a C-contiguous float32 array of shape [{len(vectors)}]")
    return vectors.shape[1], vectors.shape[0]


def check_array(
    field: str, value: NDArray[Any], dtype: type[Scalar], shape: tuple[int | None, ...], exact: bool = False
) -> NDArray[Scalar]:
    """Return `value` as a C-contiguous array of `dtype`; the same object where it is one already.

    `exact` refuses another dtype: converting what is as long as the store at every call would be a slow surprise.
    """
    array = np.asarray(value)
    if array.dtype != dtype and (exact or not np.can_cast(array.dtype, dtype, "same_kind")):
        raise KernelArgumentError(field, f"must be {np.dtype(dtype).name}; got {array.dtype}")
    if array.ndim != len(shape) or any(w not in (None, h) for h, w in zip(array.shape, shape, strict=True)):
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise KernelArgumentError(field, f"must have shape [{wanted}]; got {list(array.shape)}")
    return np.ascontiguousarray(array, dtype)


def check_calibration(calibration: Float32Array) -> None:
    """Raise `KernelArgumentError` for a value outside the ranges that `rescore` states."""
    fits = (calibration >= _LOWEST) & (calibration <= _HIGHEST)
    if not fits.all():
        name = CALIBRATION[int(np.argmin(fits.all(axis=0)))]
        raise KernelArgumentError(f"calibration.{name}", _RANGES[name][2])


def check_queries(queries: Float32Array, dim: int) -> Float32Array:
    """Return float32 [Q, dim] as the kernels take it; `KernelArgumentError` where a value is not finite."""
    queries = check_array("queries", queries, np.float32, (None, dim))
    finite = np.isfinite(queries)
    if not finite.all():
        at = int(np.argmin(finite.all(axis=1)))
        raise KernelArgumentError("queries", f"row {at} has a value that is not finite")
    return queries


def _check_counts(**counts: int) -> None:
    for name, number in counts.items():
        if number < 0:
            raise KernelArgumentError(name, f"{number}; must be 0 or more")


def _reset(out: Rescored, queries: int, top_k: int, top_creators: int) -> Rescored:
    """Mark every place of a reused result as unused."""
    fresh = Rescored.room(queries, top_k, top_creators)
    for field, array, wanted in zip(fields(Rescored), out.arrays, fresh.arrays, strict=True):
        if (
            array.shape != wanted.shape
            or array.dtype != wanted.dtype
            or not array.flags.c_contiguous
            or not array.flags.writeable
        ):
            raise KernelArgumentError(
                f"out.{field.name}", f"must be writeable, C-contiguous and of shape {list(wanted.shape)}"
            )
    out.clear()
    return out
