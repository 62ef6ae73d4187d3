"""Exact re-scoring of candidates: the typed face of the rescore kernel."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import reference
from .dispatch import NUMPY, KernelArgumentError, active, native
from .types import BoolBitmap, Float16Array, Float32Array, Int8Array, Int32Array, Int64Array, Rescored

MAX_ROWS: Final = 2**31 - 1

Scalar = TypeVar("Scalar", bound=np.generic)


def rescore(
    queries: Float32Array,
    candidates: Int64Array,
    vectors: Float16Array | Int8Array,
    creators: Int32Array,
    groups: Int32Array,
    *,
    temperature: Float32Array,
    threshold: Float32Array,
    background: Float32Array,
    top_k: int,
    top_creators: int,
    allowed: BoolBitmap | None = None,
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
    | temperature | float32 [Q] | T, above 0 |
    | threshold | float32 [Q] | u, in [0, 1), on the weight before normalisation |
    | background | float32 [Q] | b, similarity of the null item; minus infinity leaves it out |
    | allowed | uint8 [ceil(N / 8)] | bitmap over the rows, least significant bit first; a 0 bit drops the row |
    | scales | float32 [N] | only with int8 vectors: a vector is its scale times its codes |

    **Share.** With s_i the inner product of the query and candidate i, and m = max(max_i s_i, b):

        w_i = max(exp((s_i - m) / T) - u, 0)                 weight of a candidate
        w_0 = exp((b - m) / T)                               weight of the null item
        W_g = max of w_i over the members i of group g       a near-duplicate group counts once
        share_i = (w_i / sum of w_j over j in g) * W_g / (w_0 + sum over groups of W_g)
        diffuse = w_0 / (w_0 + sum over groups of W_g)

    so that all shares and `diffuse` add up to 1. The sum runs over *all* R candidates, not over the k returned.
    This is the calibrated soft score of Attribution by Customization (Wang et al., ICCV 2023): a softmax with a
    learned temperature, cut below a learned threshold. The null item and the groups are this project's additions:
    the first lets the shares say "nobody in particular", the second keeps copies from multiplying a claim. A share
    below the smallest normal float32 (1.2e-38) is 0.

    Items come by descending similarity, equal ones by ascending row; creators by descending total, equal ones by
    ascending code. A similarity is summed in float32 in an order of each instruction set's own, so that paths
    differ in the last bits; on one path the same vectors always give the same bits.

    `out`, where given, is filled and returned. `threads` is how many threads share the queries (0: one a core).
    Warm calls allocate nothing but the result; the GIL is released.

    Raises `KernelArgumentError` (an `InvalidArgumentError` and a `ValueError`) for a wrong dtype, shape or value,
    `IndexError` for a candidate at or above N, and `ValueError` where a similarity is not finite.
    """
    isa = active()
    module, _ = native()
    compiled = module is not None and isa != NUMPY
    if compiled and out is None and top_k >= 0 and top_creators >= 0 and threads >= 0:
        # The common case: the extension takes the arguments as they are, or says that it cannot.
        out = Rescored.empty(len(queries), top_k, top_creators)
        arrays = (vectors, scales, queries, candidates, creators, groups)
        if _run(module, (*arrays, temperature, threshold, background, allowed), out, isa, threads):
            return out
        out = None

    dim, rows = _check_store(vectors, scales)
    queries = check_array("queries", queries, np.float32, (None, dim))
    count = len(queries)
    candidates = check_array("candidates", candidates, np.int64, (count, None))
    creators = check_array("creators", creators, np.int32, (rows,), exact=True)
    groups = check_array("groups", groups, np.int32, (rows,), exact=True)
    temperature = check_array("temperature", temperature, np.float32, (count,))
    threshold = check_array("threshold", threshold, np.float32, (count,))
    background = check_array("background", background, np.float32, (count,))
    if allowed is not None:
        allowed = check_array("allowed", allowed, np.uint8, ((rows + 7) // 8,))
    check_values(queries, temperature, threshold, background)
    for name, number in (("top_k", top_k), ("top_creators", top_creators), ("threads", threads)):
        if number < 0:
            raise KernelArgumentError(name, f"{number}; must be 0 or more")
    out = (
        Rescored.empty(count, top_k, top_creators) if out is None else _reset(out, count, top_k, top_creators)
    )
    if not compiled:
        return reference.rescore(
            queries, candidates, vectors, creators, groups,
            temperature=temperature, threshold=threshold, background=background,
            top_k=top_k, top_creators=top_creators, allowed=allowed, scales=scales, out=out,
        )  # fmt: skip
    arrays = (vectors, scales, queries, candidates, creators, groups)
    if not _run(module, (*arrays, temperature, threshold, background, allowed), out, isa, threads):
        raise RuntimeError("the extension refused arguments that its Python face had checked")
    return out


def _run(module: Any, arrays: tuple[Any, ...], out: Rescored, isa: str, threads: int) -> bool:
    """Call the extension; False where an argument has the wrong type, shape or value."""
    results = (
        out.rows,
        out.similarity,
        out.share,
        out.diffuse,
        out.creators,
        out.creator_share,
        out.creator_items,
    )
    try:
        return bool(module.rescore(*arrays, *results, isa, threads))
    except TypeError:
        return False


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


def check_values(
    queries: Float32Array, temperature: Float32Array, threshold: Float32Array, background: Float32Array
) -> None:
    """Raise `KernelArgumentError` for a value outside the ranges that `rescore` states."""
    if not np.isfinite(queries).all():
        at = int(np.argmin(np.isfinite(queries).all(axis=1)))
        raise KernelArgumentError("queries", f"row {at} has a value that is not finite")
    if not ((temperature > 0) & (temperature < np.inf)).all():
        raise KernelArgumentError("temperature", "must be finite and above 0")
    if not ((threshold >= 0) & (threshold < 1)).all():
        raise KernelArgumentError("threshold", "must be at least 0 and below 1")
    if not (background < np.inf).all():
        raise KernelArgumentError("background", "must be finite or minus infinity")


def _reset(out: Rescored, queries: int, top_k: int, top_creators: int) -> Rescored:
    """Mark every place of a reused result as unused."""
    places = {"rows": -1, "similarity": 0, "share": 0, "diffuse": 1}
    places |= {"creators": -1, "creator_share": 0, "creator_items": 0}
    shapes = {"diffuse": (queries,)}
    for name, unused in places.items():
        array = getattr(out, name)
        shape = shapes.get(name, (queries, top_creators if name.startswith("creator") else top_k))
        if array.shape != shape or not array.flags.c_contiguous or not array.flags.writeable:
            raise KernelArgumentError(
                f"out.{name}", f"must be writeable, C-contiguous and of shape {list(shape)}"
            )
        array.fill(unused)
    return out
