from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kernels_cuda as cuda
from attributary import kernels
from attributary.errors import UnavailableError
from attributary.kernels import dispatch, reference

from .test_rescore import problem

needs_device = pytest.mark.skipif(not cuda.available(), reason=f"no CUDA device ({cuda.why_not()})")


@pytest.fixture
def no_device() -> None:
    if cuda.available():
        pytest.skip("a CUDA device is here")


def test_importing_needs_no_driver() -> None:
    code = "import kernels_cuda as cuda; cuda.available(); print('imported')"
    tools = Path(cuda.__file__).parent
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tools, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "imported", done.stderr


def test_without_a_device_every_call_says_so(no_device: None) -> None:
    calls = (
        cuda.device_name,
        cuda.device_copy_rate,
        lambda: cuda.resize_crop_batch(np.zeros((1, 8, 8, 3), np.uint8), 4),
        lambda: cuda.ResidentVectors(np.zeros((4, 8), np.float16)),
    )
    for call in calls:
        with pytest.raises(cuda.CudaUnavailableError, match=r"CUDA cannot be used: .+") as caught:
            call()
        assert isinstance(caught.value, UnavailableError)


@pytest.mark.gpu
@needs_device
@pytest.mark.parametrize(
    ("height", "width", "size"), [(512, 512, 224), (801, 512, 224), (20, 30, 64), (64, 90, 64)]
)
def test_resize_equals_pillow(height: int, width: int, size: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, height, width, 3), np.uint8)
    result = cuda.resize_crop_batch(images, size)
    np.testing.assert_array_equal(result, np.stack([reference.resize_crop(image, size) for image in images]))


def batch(seed: int, **sizes: int) -> tuple[np.ndarray, dict]:
    """Vectors, and the arguments of a call that ranks some of them."""
    made = problem(seed, **sizes)
    return made["vectors"], {name: made[name] for name in ("queries", "candidates", "top_k")}


@pytest.mark.gpu
@needs_device
@pytest.mark.parametrize("seed", range(20))
def test_rank_equals_the_reference_and_repeats_bit_for_bit(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    vectors, call = batch(
        seed,
        queries=int(rng.integers(1, 9)),
        width=int(rng.integers(1, 3000)),
        rows=int(rng.integers(1, 4000)),
        dim=8 * int(rng.integers(1, 100)),
        top_k=int(rng.integers(0, 200)),
    )
    if seed % 2:
        call["allowed"] = np.packbits(rng.integers(0, 2, len(vectors)).astype(bool), bitorder="little")
    store = cuda.ResidentVectors(vectors)
    rows, similarity = store.rank(**call)
    monkeypatch.setenv(dispatch.VARIABLE, dispatch.NUMPY)
    wanted_rows, wanted = kernels.rank(vectors=vectors, **call)
    np.testing.assert_allclose(similarity, wanted, rtol=2e-4, atol=2e-6)
    exact = np.einsum("qd,qkd->qk", call["queries"], vectors.astype(np.float32)[rows])
    np.testing.assert_allclose(np.where(rows >= 0, exact, 0), similarity, atol=1e-5)
    np.testing.assert_array_equal(rows < 0, wanted_rows < 0)
    for _ in range(3):
        again = store.rank(**call)
        np.testing.assert_array_equal(again[0], rows)
        np.testing.assert_array_equal(again[1], similarity)


@pytest.mark.gpu
@needs_device
def test_faults_are_errors_and_leave_the_store_usable() -> None:
    vectors, call = batch(1, dim=48)
    store = cuda.ResidentVectors(vectors)
    before = store.rank(**call)
    stray = call["candidates"].copy()
    stray[1, 3] = 90
    with pytest.raises(IndexError, match="query 1, row 90"):
        store.rank(**call | {"candidates": stray})
    with pytest.raises(kernels.KernelArgumentError, match="top_k"):
        store.rank(**call | {"top_k": 2000})
    np.testing.assert_array_equal(store.rank(**call)[0], before[0])
