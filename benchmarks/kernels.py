"""How fast the CPU kernels are beside their peers: one thread, medians of interleaved calls' CPU time, one run.

    python benchmarks/kernels.py [--json] [--save] [--only preprocess|rescore|decode]

Preprocess: the same pixels to 224 x 224. OpenCV's INTER_AREA and INTER_CUBIC and torch's interpolate are not equal
to Pillow in output; their largest difference from Pillow is in the table.
Rescore: every call gets new random candidates of a store far larger than the last-level cache, so vectors are cold;
two untimed calls go first, so that code and the small arrays are as warm as in a server.
The floor is the time to copy as many bytes as the candidates' vectors hold at the rate of a 64 MiB copy inside the
store, measured in turn with the methods: a walk in order, which no gather of short rows can be. "gathered copy" is the
other floor, `np.take` of the sorted candidates' rows into memory that is there already. The background is set so that
one candidate in ten has a weight above 0; temperature and threshold are those of the demo's bundle.
"""

from __future__ import annotations

import io
import math
import os
import time

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from common import Aim, aim, arguments, emit, interleaved  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402

from attributary import kernels  # noqa: E402
from attributary.kernels import Rescored, dispatch, reference  # noqa: E402
from attributary.kernels.types import CALIBRATION as COLUMNS  # noqa: E402

STORE_BYTES = 400 * 2**20  # more than ten times the last-level cache
COPY_BYTES = 64 * 2**20
POSITIVE_QUANTILE = 1.28  # standard deviations above which one in ten lies
CALIBRATION = {"temperature": 0.063, "threshold": 0.02}
FAISS_WHOLE, FAISS_BASE = "FAISS base and refine", "FAISS base alone"
COPY = "copy"
GATHERED = "gathered copy"
Row = dict[str, Any]


def on(path: str, call: Callable[[], object]) -> Callable[[], object]:
    """Force `path` for one call."""

    def forced() -> object:
        os.environ[dispatch.VARIABLE] = path
        return call()

    return forced


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    """Return smooth colour with some noise: what a generated image looks like to a resampler and to JPEG."""
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 32, width // 32, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy: NDArray[np.uint8] = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
    return noisy


def compiled_paths() -> list[str]:
    return [path for path in dispatch.available() if path != dispatch.NUMPY]


def bench_preprocess(rounds: int) -> list[Row]:
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for height, width in ((512, 512), (768, 512), (1024, 1024), (2048, 2048)):
        pixels = photograph(height, width)
        picture = Image.fromarray(pixels)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
        new_height, new_width = reference.short_side_size(height, width, 224)
        top, left = (new_height - 224) // 2, (new_width - 224) // 2
        window = np.s_[top : top + 224, left : left + 224]
        box = (left, top, left + 224, top + 224)
        new = (new_width, new_height)

        def opencv(
            flag: int, pixels: Any = pixels, new: Any = new, window: Any = window
        ) -> NDArray[np.uint8]:
            return np.ascontiguousarray(cv2.resize(pixels, new, interpolation=flag)[window])

        def torch_resize(tensor: Any = tensor, new: Any = new, window: Any = window) -> NDArray[np.uint8]:
            resized = torch.nn.functional.interpolate(tensor, new[::-1], mode="bicubic", antialias=True)
            return np.ascontiguousarray(resized[0].permute(1, 2, 0)[window].numpy())

        def pillow(picture: Any = picture, new: Any = new, box: Any = box) -> NDArray[np.uint8]:
            return np.asarray(picture.resize(new, Image.Resampling.BICUBIC).crop(box))

        calls: dict[str, Callable[[], Any]] = {
            **{
                f"attributary {path}": on(path, partial(kernels.resize_crop, pixels, 224))
                for path in compiled_paths()
            },
            "Pillow": pillow,
            "torch uint8 antialias": torch_resize,
            "OpenCV INTER_AREA": partial(opencv, cv2.INTER_AREA),
            "OpenCV INTER_CUBIC": partial(opencv, cv2.INTER_CUBIC),
        }
        expected = pillow().astype(np.int16)
        times = interleaved(calls, rounds, clock=time.thread_time)
        for name, seconds in times.items():
            difference = np.abs(calls[name]().astype(np.int16) - expected)
            rows.append(
                {
                    "input": f"{width}x{height}",
                    "method": name,
                    "ms": seconds * 1e3,
                    "times Pillow": times["Pillow"] / seconds,
                    "largest difference": int(difference.max()),
                    "equal %": 100 * float((difference == 0).mean()),
                }
            )
    return rows


def make_store(dim: int) -> tuple[NDArray[np.float16], NDArray[np.int32], NDArray[np.int32]]:
    rng = np.random.default_rng(dim)
    rows = STORE_BYTES // (2 * dim)
    vectors = np.empty((rows, dim), np.float16)
    for start in range(0, rows, 65536):
        block = rng.standard_normal((min(65536, rows - start), dim), np.float32)
        vectors[start : start + 65536] = block / np.linalg.norm(block, axis=1, keepdims=True)
    creators = rng.integers(0, 5000, rows).astype(np.int32)
    return vectors, creators, np.arange(rows, dtype=np.int32)


def rescore_calls(dim: int, width: int) -> tuple[dict[str, Callable[[], Any]], Callable[[], None]]:
    """Return the calls to compare, and what draws new candidates before each of them."""
    import faiss
    import torch

    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    vectors, creators, groups = make_store(dim)
    rng = np.random.default_rng(0)
    query = rng.standard_normal((1, dim)).astype(np.float32)
    query /= np.linalg.norm(query)
    candidates = np.empty((1, width), np.int64)
    out = Rescored.empty(1, 20, 10)
    # Inner products of random unit vectors have a standard deviation of dim ** -0.5.
    reach = CALIBRATION["temperature"] * math.log(1 / CALIBRATION["threshold"])
    values = CALIBRATION | {"background": reach + POSITIVE_QUANTILE * dim**-0.5}
    values |= {"floor": 0, "foreign_below": -1, "margin": 0, "reach": 0, "reach_cut": 1, "reach_null": 1}
    calibration = np.array([[values[name] for name in COLUMNS]], np.float32)
    codes = np.clip(np.rint(vectors.astype(np.float32) * 400), -127, 127).astype(np.int8)
    scales = np.full(len(codes), 1 / 400, np.float32)

    def ours(store: Any = vectors, scales: Any = None) -> Rescored:
        return kernels.rescore(
            query,
            candidates,
            store,
            creators,
            groups,
            calibration,
            scales=scales,
            top_k=20,
            top_creators=10,
            out=out,
        )

    as_tensor = torch.from_numpy(vectors)
    as_query = torch.from_numpy(query[0])

    def in_torch() -> Any:
        similarity = as_tensor[torch.from_numpy(candidates[0])].float() @ as_query
        return torch.topk(similarity, 20), torch.softmax(similarity / CALIBRATION["temperature"], 0)

    base, refine = faiss_refine(vectors, dim, width)
    take = np.empty((1, width), np.float32), np.empty((1, width), np.int64)

    length = COPY_BYTES // (2 * dim)
    target = np.zeros((length, dim), np.float16)

    def copy() -> None:
        start = int(candidates[0, 0]) % (len(vectors) - length)
        np.copyto(target, vectors[start : start + length])

    calls: dict[str, Callable[[], Any]] = {COPY: copy}
    calls |= {f"attributary {p}": on(p, ours) for p in compiled_paths()}
    calls["attributary int8"] = on(compiled_paths()[-1], lambda: ours(codes, scales))
    gathered = np.empty((width, dim), np.float16)
    calls[GATHERED] = lambda: np.take(vectors, np.sort(candidates[0]), axis=0, out=gathered, mode="clip")
    calls["NumPy reference"] = on(dispatch.NUMPY, ours)
    calls["torch gather, top-k, softmax"] = in_torch
    calls[FAISS_WHOLE] = lambda: refine.search(query, 20)
    calls[FAISS_BASE] = lambda: base.search(query, width, D=take[0], I=take[1])

    def draw() -> None:
        candidates[...] = rng.integers(0, len(vectors), (1, width))
        faiss.copy_array_to_vector(candidates[0], base.id_map)

    return calls, draw


def faiss_refine(vectors: NDArray[np.float16], dim: int, width: int) -> tuple[Any, Any]:
    """Return a base index that answers with a list of ids given to it, and an fp16 IndexRefine over it.

    FAISS has no call for the refining step alone, so that the base's own time is measured and taken off.
    """
    import faiss

    rng = np.random.default_rng(0)
    few = rng.standard_normal((max(width, 1024), dim)).astype(np.float32)
    coarse = faiss.IndexPQ(dim, 1, 4, faiss.METRIC_INNER_PRODUCT)
    coarse.train(few)
    base = faiss.IndexIDMap(coarse)
    base.add_with_ids(few[:width], np.arange(width))
    exact = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    exact.train(few)
    faiss.copy_array_to_vector(vectors.view(np.uint8).reshape(-1), exact.codes)
    exact.ntotal = width  # the constructor wants both to hold as many
    refine = faiss.IndexRefine(base, exact)
    exact.ntotal = refine.ntotal = len(vectors)
    refine.k_factor = width / 20
    return base, refine


def bench_rescore(rounds: int) -> list[Row]:
    rows: list[Row] = []
    for dim in (256, 512, 768):
        for width in (1_000, 10_000):
            calls, draw = rescore_calls(dim, width)
            times = interleaved(calls, rounds, before=draw, settle=2, clock=time.thread_time)
            rate = COPY_BYTES / times.pop(COPY)
            times["FAISS IndexRefine fp16"] = times.pop(FAISS_WHOLE) - times.pop(FAISS_BASE)
            for name, seconds in times.items():
                moved = width * dim * (1 if name.endswith("int8") else 2)
                rows.append(
                    {
                        "D": dim,
                        "R": width,
                        "method": name,
                        "us": seconds * 1e6,
                        "GB/s": moved / seconds / 1e9,
                        "of copy rate": moved / seconds / rate,
                        "copy GB/s": rate / 1e9,
                        "times NumPy": times["NumPy reference"] / seconds,
                    }
                )
    return rows


def bench_decode(rounds: int) -> list[Row]:
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)
    rows: list[Row] = []
    for side in (512, 1024):
        stream = io.BytesIO()
        Image.fromarray(photograph(side, side)).save(stream, "JPEG", quality=90)
        jpeg = stream.getvalue()
        as_array = np.frombuffer(jpeg, np.uint8)

        def in_opencv(as_array: Any = as_array) -> Any:
            decoded = cv2.imdecode(as_array, cv2.IMREAD_COLOR)
            assert decoded is not None
            return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)

        def in_pillow(jpeg: bytes = jpeg, draft: int = 0) -> Any:
            picture = Image.open(io.BytesIO(jpeg))
            if draft:
                picture.draft("RGB", (draft, draft))
            return np.asarray(picture)

        calls: dict[str, Callable[[], Any]] = {
            "simplejpeg": partial(simplejpeg.decode_jpeg, jpeg),
            "simplejpeg fastdct": partial(simplejpeg.decode_jpeg, jpeg, fastdct=True),
            "simplejpeg half size": partial(simplejpeg.decode_jpeg, jpeg, min_height=224, min_width=224),
            "Pillow": in_pillow,
            "Pillow draft": partial(in_pillow, draft=256),
            "OpenCV": in_opencv,
        }
        exact = in_pillow()
        for name, seconds in interleaved(calls, rounds, clock=time.thread_time).items():
            found = calls[name]()
            same = found.shape == exact.shape and bool((found == exact).all())
            rows.append({"JPEG": f"{side}x{side}, {len(jpeg) // 1024} KiB", "decoder": name, "ms": seconds * 1e3,
                         "size": f"{found.shape[1]}x{found.shape[0]}", "equals Pillow": same})  # fmt: skip
    return rows


def value(rows: list[Row], column: str, **where: object) -> float:
    found = [row[column] for row in rows if all(row[key] == wanted for key, wanted in where.items())]
    return float(found[0])


def preprocess_aims(rows: list[Row]) -> list[Aim]:
    best = f"attributary {compiled_paths()[-1]}"
    speed = value(rows, "times Pillow", input="512x512", method=best)
    aims = [aim("preprocess 512 to 224 against Pillow", speed, 4, "times", speed >= 4, best)]
    if {"avx2", "avx512"} <= set(compiled_paths()):
        ratio = value(rows, "ms", input="512x512", method="attributary avx2") / value(
            rows, "ms", input="512x512", method="attributary avx512"
        )
        aims.append(aim("AVX2 time over AVX-512 time, 512 to 224", ratio, 2, "times", ratio <= 2))
    equal = min(row["equal %"] for row in rows if row["method"].startswith("attributary"))
    aims.append(aim("bytes equal to Pillow's, worst case", equal, 99.9, "%", equal >= 99.9))
    return aims


def rescore_aims(rows: list[Row]) -> list[Aim]:
    best = f"attributary {compiled_paths()[-1]}"
    aims = []
    for dim in (256, 512, 768):
        for width in (1_000, 10_000):
            share = value(rows, "of copy rate", D=dim, R=width, method=best)
            wanted = 0.5 if (dim, width) == (256, 1_000) else 0.7
            gathered = value(rows, "us", D=dim, R=width, method=GATHERED) / value(
                rows, "us", D=dim, R=width, method=best
            )
            note = f"{best}, the whole call; {gathered:.2f} of a copy of the same rows, gathered"
            name = f"rescore R={width} D={dim} over the copy floor"
            aims.append(aim(name, share, wanted, "", share >= wanted, note))
    slowest = min(row["times NumPy"] for row in rows if row["method"] == best)
    aims.append(aim("rescore against NumPy, worst case", slowest, 5, "times", slowest >= 5, best))
    return aims


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["preprocess", "rescore", "decode"], help="measure one kernel")
    parser.add_argument("--rounds", type=int, default=25, help="timed calls of each method")
    options = parser.parse_args()
    results: dict[str, list[Row]] = {}
    aims: list[Aim] = []
    config: dict[str, Any] = {
        "threads": 1,
        "clock": "CPU time of the thread",
        "rounds": options.rounds,
        "paths": compiled_paths(),
    }
    config |= {"store": f"{STORE_BYTES >> 20} MiB of fp16 vectors", "top_k": 20} | CALIBRATION
    if options.only in (None, "preprocess"):
        results["preprocess"] = bench_preprocess(options.rounds)
        aims += preprocess_aims(results["preprocess"])
    if options.only in (None, "rescore"):
        results["rescore"] = bench_rescore(options.rounds)
        aims += rescore_aims(results["rescore"])
    if options.only in (None, "decode"):
        results["decode"] = bench_decode(options.rounds)
    emit("kernels", config, results, aims, options.json)


if __name__ == "__main__":
    main()
