from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from attributary import kernels
from attributary.errors import UnavailableError
from attributary.kernels import cuda, reference

from .test_rescore import assert_equal, oracle, problem

needs_device = pytest.mark.skipif(not cuda.available(), reason=f"no CUDA device ({cuda.why_not()})")


@pytest.fixture
def no_device() -> None:
    if cuda.available():
        pytest.skip("a CUDA device is here")


def test_importing_needs_no_driver() -> None:
    code = "import attributary.kernels.cuda as cuda; cuda.available(); print('imported')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "imported", done.stderr


def test_without_a_device_every_door_says_so(no_device: None) -> None:
    doors = (
        cuda.device_name,
        cuda.device_copy_rate,
        lambda: cuda.resize_crop_batch(np.zeros((1, 8, 8, 3), np.uint8), 4),
        lambda: cuda.ResidentVectors(
            np.zeros((4, 8), np.float16), np.zeros(4, np.int32), np.zeros(4, np.int32)
        ),
    )
    for door in doors:
        with pytest.raises(cuda.CudaUnavailableError, match=r"CUDA cannot be used: .+") as caught:
            door()
        assert isinstance(caught.value, UnavailableError)


@pytest.mark.gpu
@needs_device
@pytest.mark.parametrize(
    ("height", "width", "size"), [(512, 512, 224), (801, 512, 224), (20, 30, 64), (64, 90, 64)]
)
def test_resize_equals_pillow(height: int, width: int, size: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, height, width, 3), np.uint8)
    result = cuda.resize_crop_batch(images, size)
    np.testing.assert_array_equal(result, reference.resize_crop_batch(list(images), size))


@pytest.mark.gpu
@needs_device
@pytest.mark.parametrize("seed", range(20))
def test_rescore_equals_the_reference_and_repeats_bit_for_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arguments = problem(
        seed,
        queries=int(rng.integers(1, 9)),
        width=int(rng.integers(1, 3000)),
        rows=int(rng.integers(1, 4000)),
        dim=8 * int(rng.integers(1, 100)),
        top_k=int(rng.integers(0, 200)),
        top_creators=int(rng.integers(0, 20)),
    )
    rows = len(arguments["vectors"])
    if seed % 2:
        arguments["allowed"] = np.packbits(rng.integers(0, 2, rows).astype(bool), bitorder="little")
    store = cuda.ResidentVectors(*(arguments[name] for name in ("vectors", "creators", "groups")))
    call = {k: v for k, v in arguments.items() if k not in ("vectors", "creators", "groups")}
    first = store.rescore(**call)
    assert_equal(first, oracle(arguments), arguments)
    for _ in range(3):
        again = store.rescore(**call)
        for name in ("rows", "similarity", "share", "diffuse", "creators", "creator_share", "creator_items"):
            np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


@pytest.mark.gpu
@needs_device
def test_faults_are_errors_and_leave_the_store_usable() -> None:
    arguments = problem(1, dim=48)
    store = cuda.ResidentVectors(*(arguments[name] for name in ("vectors", "creators", "groups")))
    call = {k: v for k, v in arguments.items() if k not in ("vectors", "creators", "groups")}
    before = store.rescore(**call)
    stray = call["candidates"].copy()
    stray[1, 3] = 90
    with pytest.raises(IndexError, match="query 1, row 90"):
        store.rescore(**call | {"candidates": stray})
    with pytest.raises(kernels.KernelArgumentError, match="top_k"):
        store.rescore(**call | {"top_k": 2000})
    np.testing.assert_array_equal(store.rescore(**call).share, before.share)
