"""The CUDA kernels where a device is at hand: correctness on fresh random input, and bandwidth over a device copy.

    python benchmarks/kernels_gpu.py [--json] [--save]

Without a device it says so and ends with 2. The floor of ranking is the time in which a copy on the device moves
as many bytes as the candidates' vectors hold; a replay is the captured graph without copies from and to the host.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Aim, aim, arguments, emit, interleaved

from attributary import kernels
from attributary.kernels import dispatch, reference

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import kernels_cuda as cuda

STORE_ROWS = 1_000_000
BATCH = 64


def bench_rank(repeats: int) -> tuple[list[dict[str, Any]], list[Aim], float]:
    rate = cuda.device_copy_rate()
    rng = np.random.default_rng()
    rows: list[dict[str, Any]] = []
    aims: list[Aim] = []
    for dim in (256, 512, 768):
        vectors = np.empty((STORE_ROWS, dim), np.float16)
        for start in range(0, STORE_ROWS, 65536):
            block = rng.standard_normal((min(65536, STORE_ROWS - start), dim), np.float32)
            vectors[start : start + 65536] = block / np.linalg.norm(block, axis=1, keepdims=True)
        queries = rng.standard_normal((BATCH, dim)).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        store = cuda.ResidentVectors(vectors, max_queries=BATCH, max_candidates=20_000)
        for width in (1_000, 10_000, 20_000):
            call: dict[str, Any] = {
                "queries": queries,
                "candidates": rng.integers(0, STORE_ROWS, (BATCH, width)),
                "top_k": 1_000,
            }
            answer, again = store.rank(**call), store.rank(**call)
            os.environ[dispatch.VARIABLE] = dispatch.NUMPY
            expected = kernels.rank(vectors=vectors, **call)
            del os.environ[dispatch.VARIABLE]
            seconds = store.replay_seconds(repeats)
            moved = BATCH * width * dim * 2
            rows.append(
                {
                    "D": dim,
                    "R": width,
                    "ms a batch": seconds * 1e3,
                    "GB/s": moved / seconds / 1e9,
                    "of copy rate": moved / seconds / rate,
                    "largest difference": float(np.abs(answer[1] - expected[1]).max()),
                    "rows equal %": 100 * float((answer[0] == expected[0]).mean()),
                    "bits equal again": np.array_equal(answer[0], again[0])
                    and np.array_equal(answer[1], again[1]),
                }
            )
            if width == 10_000:
                share = rows[-1]["of copy rate"]
                name = f"rank on the GPU, R={width} D={dim} batch {BATCH}, over the copy rate"
                aims.append(aim(name, share, 0.6, "", share >= 0.6))
    return rows, aims, rate


def bench_resize() -> list[dict[str, Any]]:
    rng = np.random.default_rng()
    rows = []
    for height, width in ((512, 512), (801, 512), (1024, 1024)):
        images = rng.integers(0, 256, (32, height, width, 3), np.uint8)
        equal = np.array_equal(
            cuda.resize_crop_batch(images, 224),
            np.stack([reference.resize_crop(image, 224) for image in images]),
        )
        times = interleaved({"GPU": partial(cuda.resize_crop_batch, images, 224)}, 10)
        row = {"input": f"{width}x{height}", "ms an image, host to host": times["GPU"] * 1e3 / len(images)}
        rows.append(row | {"equals Pillow": equal})
    return rows


def main() -> int:
    parser = arguments("Measure the CUDA kernels.")
    parser.add_argument("--repeats", type=int, default=50, help="replays of each batch")
    options = parser.parse_args()
    if not cuda.available():
        print(f"nothing measured: {cuda.why_not()}", file=sys.stderr)
        return 2
    ranked, aims, rate = bench_rank(options.repeats)
    resized = bench_resize()
    equal = all(row["equals Pillow"] for row in resized)
    aims.append(aim("resize on the GPU equals Pillow", float(equal), 1, "", equal))
    stable = all(row["bits equal again"] for row in ranked)
    aims.append(aim("the same batch gives the same bits", float(stable), 1, "", stable))
    config = {"device": cuda.device_name(), "copy rate GB/s": rate / 1e9, "rows": STORE_ROWS, "batch": BATCH}
    emit("kernels_gpu", config, {"rank": ranked, "resize": resized}, aims, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
