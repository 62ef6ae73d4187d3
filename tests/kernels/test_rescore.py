from __future__ import annotations

import dataclasses
import os
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attributary import kernels
from attributary.errors import AttributaryError
from attributary.kernels import Rescored, dispatch
from attributary.kernels.types import CALIBRATION


def calibration(queries: int, **columns: Any) -> np.ndarray:
    """Calibration of every query, float32 [Q, 9]; what is not given does nothing."""
    plain = {"temperature": 0.1, "threshold": 0, "background": -1, "floor": 0, "foreign_below": -2}
    plain |= {"margin": 0, "reach": 0, "reach_cut": 1, "reach_null": 1} | columns
    return np.stack([np.full(queries, plain[name]) for name in CALIBRATION], axis=1).astype(np.float32)


def problem(
    seed: int = 0, queries: int = 3, width: int = 60, rows: int = 90, dim: int = 48, **more: Any
) -> dict:
    """A random batch, its repeats, -1s, groups and creators included."""
    rng = np.random.default_rng(seed)
    unit = rng.standard_normal((queries + rows, dim)).astype(np.float32) + 1e-3
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return {
        "queries": unit[:queries],
        "candidates": rng.integers(-1, rows, (queries, width)),
        "vectors": unit[queries:].astype(np.float16),
        "creators": rng.integers(-4, 12, rows).astype(np.int32),
        "groups": rng.integers(0, max(rows // 2, 1), rows).astype(np.int32),
        "calibration": calibration(
            queries,
            temperature=rng.uniform(0.02, 0.5, queries),
            threshold=rng.choice([0.0, 0.01, 0.3], queries),
            background=rng.uniform(-0.3, 0.4, queries),
            floor=rng.choice([0.0, 0.2], queries),
            foreign_below=rng.choice([-1.0, 0.2], queries),
            margin=rng.choice([0.0, 0.4], queries),
            reach=rng.choice([0, 1, 4, 40], queries),
            reach_cut=rng.choice([0.0, 0.7, 1.0], queries),
            reach_null=rng.choice([0.1, 1.0, 30.0], queries),
        ),
        "top_k": 7,
        "top_creators": 4,
    } | more


def oracle(arguments: dict) -> Rescored:
    with mock.patch.dict(os.environ, {dispatch.VARIABLE: "numpy"}):
        return kernels.rescore(**arguments)


def assert_equal(actual: Rescored, expected: Rescored, arguments: dict) -> None:
    """Compare up to the last bits: neighbours in rank may swap only where their similarities tie."""
    # Within reach a weight is what is above that of another similarity, whose last bits may differ as well.
    off = 2e-6 if not arguments["calibration"][:, CALIBRATION.index("reach")].any() else 5e-5
    for name in ("similarity", "share", "diffuse", "withheld", "peak", "creator_share"):
        np.testing.assert_allclose(
            getattr(actual, name), getattr(expected, name), rtol=2e-4, atol=off, err_msg=name
        )
    for q in range(len(actual.rows)):
        for got, want in zip(actual.rows[q], expected.rows[q], strict=True):
            if got == want:
                continue
            assert min(got, want) >= 0
            exact = arguments["vectors"].astype(np.float64) @ arguments["queries"][q].astype(np.float64)
            assert abs(exact[got] - exact[want]) < 1e-5, (got, want)
    same = actual.creators == expected.creators
    close = np.isclose(actual.creator_share, expected.creator_share, rtol=2e-4, atol=off)
    assert (same | close).all()
    assert ((actual.creators < -4) == (expected.creators < -4)).all()


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(0, 4),
    width=st.sampled_from([0, 1, 2, 5, 63, 300, 700]),
    rows=st.integers(1, 400),
    dim=st.sampled_from([1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 40, 64, 65, 100]),
    top_k=st.integers(0, 80),
    top_creators=st.integers(0, 20),
    filtered=st.booleans(),
    level=st.sampled_from([p for p in dispatch.available() if p != "numpy"] or ["numpy"]),
    threads=st.sampled_from([1, 2]),
)
def test_equals_the_reference(
    seed: int, queries: int, width: int, rows: int, dim: int, top_k: int, top_creators: int,
    filtered: bool, level: str, threads: int,
) -> None:  # fmt: skip
    arguments = problem(seed, queries, width, rows, dim, top_k=top_k, top_creators=top_creators)
    if filtered:
        bits = np.random.default_rng(seed).integers(0, 2, rows).astype(bool)
        arguments["visible"] = np.packbits(bits, bitorder="little")
    expected = oracle(arguments)
    with mock.patch.dict(os.environ, {dispatch.VARIABLE: level}):
        actual = kernels.rescore(**arguments, threads=threads)
        assert_equal(actual, expected, arguments)
        assert_equal(shared(arguments, threads), expected, arguments)


def shared(arguments: dict, threads: int = 1) -> Rescored:
    """The same answers from similarities that `rank` found before."""
    store = {name: arguments[name] for name in ("queries", "candidates", "vectors")}
    rows, similarity = kernels.rank(**store, top_k=arguments["candidates"].shape[1], threads=threads)
    rest = {name: value for name, value in arguments.items() if name not in store}
    return kernels.share(rows, similarity, **rest, threads=threads)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([0, 1, 5, 300]),
    top_k=st.integers(0, 80),
    level=st.sampled_from(dispatch.available()),
)
def test_rank_is_an_exact_sort(seed: int, width: int, top_k: int, level: str) -> None:
    arguments = problem(seed, width=width)
    bits = np.random.default_rng(seed).integers(0, 2, 90).astype(bool)
    allowed = np.packbits(bits, bitorder="little")
    queries, candidates, vectors = (arguments[name] for name in ("queries", "candidates", "vectors"))
    with mock.patch.dict(os.environ, {dispatch.VARIABLE: level}):
        rows, similarity = kernels.rank(queries, candidates, vectors, top_k=top_k, allowed=allowed)
    for q in range(3):
        passing = np.unique(candidates[q][candidates[q] >= 0])
        passing = passing[bits[passing]]
        exact = vectors[passing].astype(np.float32) @ queries[q]
        kept = min(top_k, passing.size)
        assert (rows[q, kept:] == -1).all()
        assert (similarity[q, kept:] == 0).all()
        np.testing.assert_allclose(similarity[q, :kept], -np.sort(-exact)[:kept], atol=1e-5)
        assert set(rows[q, :kept].tolist()) <= set(passing.tolist())


def test_hiding_rows_raises_nobody_s_share(path: str) -> None:
    arguments = problem(11, width=200, top_k=200, top_creators=16)
    bits = np.random.default_rng(1).integers(0, 2, 90).astype(bool)
    whole = kernels.rescore(**arguments)
    part = kernels.rescore(**arguments, visible=np.packbits(bits, bitorder="little"))
    np.testing.assert_array_equal(part.diffuse, whole.diffuse)
    np.testing.assert_array_equal(part.peak, whole.peak)
    np.testing.assert_allclose(part.share.sum(axis=1) + part.diffuse + part.withheld, 1, atol=1e-6)
    for q in range(3):
        before = dict(zip(whole.rows[q].tolist(), whole.share[q].tolist(), strict=True))
        after = {
            row: s for row, s in zip(part.rows[q].tolist(), part.share[q].tolist(), strict=True) if row >= 0
        }
        assert set(after) == {row for row in before if row >= 0 and bits[row]}
        assert all(share == before[row] for row, share in after.items())
        totals = dict(zip(whole.creators[q].tolist(), whole.creator_share[q].tolist(), strict=True))
        for code, total in zip(part.creators[q].tolist(), part.creator_share[q].tolist(), strict=True):
            assert total <= totals.get(code, 0) + 1e-6 or total == 0


def test_a_query_that_resembles_nothing_gives_nothing(path: str) -> None:
    arguments = problem(12, calibration=calibration(3, foreign_below=0.999), top_k=60)
    result = kernels.rescore(**arguments, visible=np.full(12, 0x55, np.uint8))
    assert (result.diffuse == 1).all()
    assert (result.withheld == 0).all()
    assert (result.share == 0).all()
    assert (result.creators == -1).all()
    assert (result.rows[:, 0] >= 0).all(), "the items themselves are still ranked"


@pytest.mark.parametrize("width", [255, 256, 257, 20_000])
def test_long_candidate_lists(path: str, width: int) -> None:
    arguments = problem(5, 2, width, 70_000, 16, top_k=100)
    assert_equal(kernels.rescore(**arguments), oracle(arguments), arguments)


def test_shares_and_diffuse_add_up_to_one(path: str) -> None:
    arguments = problem(1, width=200, top_k=200, calibration=calibration(3, threshold=0.05, floor=0.1))
    result = kernels.rescore(**arguments)
    np.testing.assert_allclose(result.share.sum(axis=1) + result.diffuse, 1, atol=1e-6)


def test_shares_are_over_all_candidates_not_the_k_returned(path: str) -> None:
    wide = kernels.rescore(**problem(2, top_k=60))
    narrow = kernels.rescore(**problem(2, top_k=3))
    np.testing.assert_array_equal(narrow.share, wide.share[:, :3])
    np.testing.assert_array_equal(narrow.diffuse, wide.diffuse)
    np.testing.assert_array_equal(narrow.creator_share, wide.creator_share)


def test_by_hand(path: str) -> None:
    """Two copies of one picture, one other, the null item: the formula written out."""
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.0]], np.float16)
    result = kernels.rescore(
        np.array([[1.0, 0.0]], np.float32),
        np.array([[2, 1, 0]]),
        vectors,
        np.array([7, 8, 8], np.int32),
        np.array([4, 4, 5], np.int32),
        calibration(1, temperature=0.5, threshold=0.1, background=0, floor=0.25),
        top_k=3,
        top_creators=3,
    )
    copies, other, null = 1 - 0.1, np.exp(-1) - 0.1, np.exp(-2)
    norm = (copies + other + null) / 0.75
    np.testing.assert_array_equal(result.rows, [[0, 1, 2]])
    np.testing.assert_allclose(
        result.share, [[copies / 2 / norm, copies / 2 / norm, other / norm]], rtol=1e-6
    )
    np.testing.assert_allclose(result.diffuse, [0.25 + null / norm], rtol=1e-6)
    np.testing.assert_array_equal(result.creators, [[8, 7, -1]])
    np.testing.assert_allclose(
        result.creator_share, [[(copies / 2 + other) / norm, copies / 2 / norm, 0]], rtol=1e-6
    )
    np.testing.assert_array_equal(result.creator_items, [[2, 1, 0]])


def test_equal_vectors_tie_by_row_whatever_their_place(path: str) -> None:
    """Blocks of rows and the rest behind them must sum in one order, or equal vectors would not tie."""
    rng = np.random.default_rng(3)
    vectors = np.repeat(rng.standard_normal((1, 77)).astype(np.float16), 23, axis=0)
    arguments = problem(3, 1, 23, 23, 77, vectors=vectors, top_k=23)
    arguments["candidates"] = rng.permutation(23)[None].astype(np.int64)
    result = kernels.rescore(**arguments)
    assert len(set(result.similarity[0].tolist())) == 1 or path == "numpy"
    if path != "numpy":
        np.testing.assert_array_equal(result.rows[0], np.arange(23))


def test_order_and_repeats_of_candidates_do_not_matter(path: str) -> None:
    arguments = problem(4, width=50)
    before = kernels.rescore(**arguments)
    shuffled = np.random.default_rng(0).permuted(np.tile(arguments["candidates"], 2), axis=1)
    after = kernels.rescore(**arguments | {"candidates": shuffled})
    for field in dataclasses.fields(Rescored):
        np.testing.assert_array_equal(
            getattr(before, field.name), getattr(after, field.name), err_msg=field.name
        )


def test_a_batch_is_its_queries_one_by_one(path: str) -> None:
    arguments = problem(6, queries=9)
    whole = kernels.rescore(**arguments, threads=3)
    for q in range(9):
        one = {name: arguments[name][q : q + 1] for name in ("queries", "candidates", "calibration")}
        alone = kernels.rescore(**arguments | one)
        for field in dataclasses.fields(Rescored):
            np.testing.assert_array_equal(getattr(whole, field.name)[q : q + 1], getattr(alone, field.name))


def test_no_candidates_is_all_diffuse(path: str) -> None:
    result = kernels.rescore(**problem(candidates=np.full((3, 5), -1)))
    assert (result.rows == -1).all()
    assert (result.diffuse == 1).all()
    assert (result.creators == -1).all()
    plain = problem(calibration=calibration(3))
    hidden = kernels.rescore(**plain, visible=np.zeros(12, np.uint8))
    assert (hidden.rows == -1).all()
    np.testing.assert_allclose(hidden.withheld + hidden.diffuse, 1, atol=1e-6)
    np.testing.assert_array_equal(hidden.diffuse, kernels.rescore(**plain).diffuse)


def test_no_null_item(path: str) -> None:
    result = kernels.rescore(**problem(calibration=calibration(3, background=-np.inf), top_k=60))
    assert (result.diffuse == 0).all()
    np.testing.assert_allclose(result.share.sum(axis=1), 1, atol=1e-6)


def test_far_below_the_background_nobody_is_named(path: str) -> None:
    result = kernels.rescore(
        **problem(calibration=calibration(3, temperature=0.01, threshold=0.01, background=0.99))
    )
    assert (result.diffuse == 1).all()
    assert (result.creators == -1).all()
    assert (result.rows >= 0).all(), "the items themselves are still ranked"


def test_fills_the_result_given(path: str) -> None:
    arguments = problem(8)
    out = kernels.rescore(**arguments)
    fresh = kernels.rescore(**arguments | {"candidates": arguments["candidates"][:, :2]})
    reused = kernels.rescore(**arguments | {"candidates": arguments["candidates"][:, :2]}, out=out)
    assert reused is out
    for field in dataclasses.fields(Rescored):
        np.testing.assert_array_equal(getattr(reused, field.name), getattr(fresh, field.name))


@pytest.mark.parametrize("dim", [5, 16, 32, 70])
def test_int8_store(path: str, dim: int) -> None:
    rng = np.random.default_rng(9)
    codes = rng.integers(-127, 128, (90, dim)).astype(np.int8)
    scales = rng.uniform(0.001, 0.002, 90).astype(np.float32)
    result = kernels.rescore(**problem(9, dim=dim, vectors=codes, top_k=60), scales=scales)
    whole = problem(9, dim=dim)
    exact = (codes * scales[:, None]) @ whole["queries"].T
    for q in range(3):
        kept = result.rows[q] >= 0
        np.testing.assert_allclose(result.similarity[q, kept], exact[result.rows[q, kept], q], atol=1e-6)


def test_memory_mapped_read_only_store(path: str, tmp_path: Any) -> None:
    arguments = problem(10)
    np.save(tmp_path / "vectors.npy", arguments["vectors"])
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    result = kernels.rescore(**arguments | {"vectors": mapped})
    np.testing.assert_array_equal(result.rows, kernels.rescore(**arguments).rows)


@pytest.mark.parametrize("stray", [90, 91, 2**31, 2**40, 2**63 - 1])
def test_out_of_range_is_an_index_error(path: str, stray: int) -> None:
    arguments = problem()
    arguments["candidates"][1, 3] = stray
    with pytest.raises(IndexError, match=f"candidate {stray} of query 1"):
        kernels.rescore(**arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_queries_are_refused(path: str, value: float) -> None:
    arguments = problem()
    arguments["queries"][2, 5] = value
    with pytest.raises(ValueError, match=r"queries: row 2"):
        kernels.rescore(**arguments)


def test_damaged_vector_is_an_error_that_names_the_row(path: str) -> None:
    arguments = problem(candidates=np.arange(12).reshape(3, 4))
    arguments["vectors"][6, 1] = np.nan
    with pytest.raises(ValueError, match="query 1 and row 6 is not finite"):
        kernels.rescore(**arguments)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"queries": np.zeros((3, 47), np.float32)}, "queries"),
        ({"queries": np.zeros(48, np.float32)}, "queries"),
        ({"candidates": np.zeros((2, 4), np.int64)}, "candidates"),
        ({"candidates": np.zeros((3, 4), np.float32)}, "candidates"),
        ({"vectors": np.zeros((90, 48), np.float32)}, "vectors"),
        ({"vectors": np.zeros((90, 96), np.float16)[:, ::2]}, "vectors"),
        ({"vectors": np.zeros((90, 48), np.int8)}, "scales"),
        ({"scales": np.zeros(90, np.float32)}, "scales"),
        ({"creators": np.zeros(89, np.int32)}, "creators"),
        ({"creators": np.zeros(90, np.int64)}, "creators"),
        ({"groups": np.zeros((90, 1), np.int32)}, "groups"),
        ({"visible": np.zeros(11, np.uint8)}, "visible"),
        ({"calibration": np.ones((3, 4), np.float32)}, "calibration"),
        ({"calibration": calibration(2)}, "calibration"),
        ({"calibration": calibration(3, temperature=0)}, "calibration.temperature"),
        ({"calibration": calibration(3, temperature=np.nan)}, "calibration.temperature"),
        ({"calibration": calibration(3, threshold=1)}, "calibration.threshold"),
        ({"calibration": calibration(3, threshold=-0.1)}, "calibration.threshold"),
        ({"calibration": calibration(3, background=np.nan)}, "calibration.background"),
        ({"calibration": calibration(3, floor=1)}, "calibration.floor"),
        ({"calibration": calibration(3, foreign_below=np.nan)}, "calibration.foreign_below"),
        ({"top_k": -1}, "top_k"),
        ({"top_creators": -1}, "top_creators"),
        ({"threads": -1}, "threads"),
    ],
)
def test_bad_arguments_are_refused_by_name(path: str, change: dict, field: str) -> None:
    with pytest.raises(kernels.KernelArgumentError) as caught:
        kernels.rescore(**problem() | change)
    assert not isinstance(caught.value, AttributaryError), "a defect of ours is never a caller's fault"
    assert caught.value.field == field


def test_bad_out_is_refused_by_name(path: str) -> None:
    with pytest.raises(kernels.KernelArgumentError, match=r"out\.rows"):
        kernels.rescore(**problem(), out=Rescored.empty(3, 6, 4))


def test_releases_the_gil_and_is_safe_in_threads() -> None:
    from concurrent.futures import ThreadPoolExecutor

    arguments = [problem(seed, width=500, rows=300) for seed in range(8)]
    alone = [kernels.rescore(**a) for a in arguments]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda a: kernels.rescore(**a), arguments * 4))
    for i, result in enumerate(together):
        np.testing.assert_array_equal(result.rows, alone[i % 8].rows)
        np.testing.assert_array_equal(result.share, alone[i % 8].share)


@pytest.mark.parametrize("reach", [1, 3, 4])
def test_equals_of_the_first_out_of_reach_have_no_share(path: str, reach: int) -> None:
    """Who of a crowd of equals lies within reach is a matter of rows: none of them is told a share."""
    vectors = np.zeros((6, 8), np.float16)
    vectors[:, 0], vectors[0, 0] = 0.5, 0.9
    codes = np.arange(6, dtype=np.int32)
    found = kernels.rescore(
        np.eye(1, 8, dtype=np.float32), np.arange(6)[None], vectors, codes, codes,
        calibration(1, reach=reach, reach_cut=0.2, reach_null=3.0), top_k=6, top_creators=6,
    )  # fmt: skip
    faint = np.exp(np.float32(np.float16(0.5)) / 0.1 - np.float32(np.float16(0.9)) / 0.1)
    wanted = (1 - 0.2 * faint) / (1 - 0.2 * faint + 3 * faint + np.exp((-1 - 0.9) / 0.1))
    assert found.share[0, 0] == pytest.approx(wanted, abs=1e-4) and not found.share[0, 1:].any()
    assert found.diffuse[0] == pytest.approx(1 - wanted, abs=1e-4)
