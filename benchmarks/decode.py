"""Decoders of encoded pictures beside each other, by format and size: CPU milliseconds of one thread, in one run.

    python benchmarks/decode.py [--json] [--save] [--rounds 15]

Each candidate gives uint8 RGB. "difference" is the largest one of a sample from Pillow's; "lets others run" is whether
another Python thread goes on meanwhile: a decoder that holds the interpreter's lock stops a whole server. Packages
that are not installed are left out; the project itself needs Pillow and simplejpeg alone:

    pip install pywuffs imagecodecs kornia-rs pyspng opencv-python-headless

`load` in the result is the machine's load average at the end: with others at work, compare within a format and size,
whose candidates take turns. AVIF's decoder has threads of its own, which no column counts.
"""

from __future__ import annotations

import io
import os
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
import simplejpeg  # noqa: E402
from common import ROOT, Aim, aim, arguments, emit, interleaved  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402

from attributary.pictures import decode  # noqa: E402

SIZES = (256, 512, 1024, 2048)
OURS, PILLOW = "attributary", "Pillow"
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "quality": 90},
    "JPEG, progressive": {"format": "JPEG", "quality": 90, "progressive": True},
    "PNG": {"format": "PNG"},
    "WebP": {"format": "WEBP", "quality": 90},
    "WebP, lossless": {"format": "WEBP", "lossless": True},
    "GIF": {"format": "GIF"},
    "BMP": {"format": "BMP"},
    "AVIF": {"format": "AVIF", "quality": 80, "speed": 8},
}
PACKAGES = ("pillow", "simplejpeg", "pywuffs", "imagecodecs", "kornia-rs", "pyspng", "opencv-python-headless")
Decoder = Callable[[bytes], NDArray[np.uint8]]
Row = dict[str, Any]


def pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def candidates() -> dict[str, Decoder]:
    """Every decoder that is installed, by name; each raises for a format that it does not read."""
    found: dict[str, Decoder] = {
        OURS: decode,
        PILLOW: pillow,
        "simplejpeg": partial(simplejpeg.decode_jpeg, colorspace="RGB"),
    }
    for add in (_wuffs, _imagecodecs, _kornia, _spng, _opencv):
        try:
            found |= add()
        except ImportError:
            continue
    return found


def _wuffs() -> dict[str, Decoder]:
    import pywuffs
    from pywuffs.aux import ImageDecoder, ImageDecoderConfig

    def wuffs(data: bytes) -> NDArray[np.uint8]:
        # One decoder a call: shared between threads it crashes.
        config = ImageDecoderConfig()
        config.enabled_decoders = [
            getattr(pywuffs.ImageDecoderType, name) for name in ("PNG", "GIF", "BMP", "JPEG", "WEBP")
        ]
        config.pixel_format = pywuffs.PixelFormat.BGR
        result = ImageDecoder(config).decode(data)
        if result.error_message:
            raise ValueError(result.error_message)
        pixels: NDArray[np.uint8] = np.empty_like(result.pixbuf)
        for channel in range(3):
            pixels[..., channel] = result.pixbuf[..., 2 - channel]
        return pixels

    return {"Wuffs": wuffs}


def _imagecodecs() -> dict[str, Decoder]:
    import imagecodecs

    return {
        "imagecodecs (libspng)": imagecodecs.spng_decode,
        "imagecodecs (libpng)": imagecodecs.png_decode,
        "imagecodecs (libjpeg-turbo)": imagecodecs.jpeg8_decode,
        "imagecodecs (libwebp)": imagecodecs.webp_decode,
        "imagecodecs (giflib)": imagecodecs.gif_decode,
        "imagecodecs (libavif)": partial(imagecodecs.avif_decode, numthreads=1),
    }


def _kornia() -> dict[str, Decoder]:
    from kornia_rs import io as kornia

    def rust_png(data: bytes) -> NDArray[np.uint8]:
        if not data.startswith(b"\x89PNG"):
            raise ValueError("another format")  # it would take the size at its word, and panic
        sides = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
        pixels: NDArray[np.uint8] = kornia.decode_image_png_u8(data, sides, "rgb")
        return pixels

    return {"kornia-rs (Rust png)": rust_png}


def _spng() -> dict[str, Decoder]:
    import pyspng

    return {"pyspng (libspng)": pyspng.load}


def _opencv() -> dict[str, Decoder]:
    import cv2

    cv2.setNumThreads(1)

    def opencv(data: bytes) -> NDArray[np.uint8]:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise ValueError("not read")
        return np.asarray(pixels, np.uint8)

    return {"OpenCV": opencv}


def contents(size: int) -> dict[str, Image.Image]:
    """A photograph (smooth colour with noise) and a drawing (a generated picture of the demo, enlarged)."""
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (size // 32, size // 32, 3), np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
    query = sorted((ROOT / "models" / "demo-queries").glob("*.png"))[0]
    drawing = Image.open(query).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return {"photograph": Image.fromarray(noisy), "drawing": drawing}


def encoded(picture: Image.Image, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def readers(data: bytes, decoders: dict[str, Decoder]) -> dict[str, int]:
    """Names of the decoders that read `data`, and how far each is from Pillow at most."""
    reference = pillow(data).astype(np.int16)
    found = {}
    for name, call in decoders.items():
        try:
            pixels = np.asarray(call(data))
        except Exception:
            continue
        if pixels.shape == reference.shape:
            found[name] = int(np.abs(pixels - reference).max())
    return found


def lets_others_run(call: Callable[[], object]) -> bool:
    """Whether a second thread that wants to run every half a millisecond does so while `call` runs.

    The longest time that it did not, as a share of the call's: 1 for a decoder that keeps the interpreter's lock. The
    least of some tries, since other processes hold the thread up as well.
    """

    def longest_wait() -> float:
        waits, stop = [0.0], False

        def work() -> None:
            last = time.perf_counter()
            while not stop:
                time.sleep(0.0005)
                now = time.perf_counter()
                waits.append(now - last)
                last = now

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.01)
        started = time.perf_counter()
        call()
        took = time.perf_counter() - started
        time.sleep(0.002)
        stop = True
        thread.join()
        return max(waits) / took

    return min(longest_wait() for _ in range(9)) < 0.7


def measure(decoders: dict[str, Decoder], rounds: int) -> list[Row]:
    """One row a format, size, content and candidate that reads it."""
    rows: list[Row] = []
    for name, options in FORMATS.items():
        for size in SIZES:
            for content, picture in contents(size).items():
                data = encoded(picture, options)
                able = readers(data, decoders)
                calls = {reader: partial(decoders[reader], data) for reader in able}
                medians = interleaved(calls, rounds, clock=time.thread_time)
                rows += [
                    {
                        "format": name,
                        "px": size,
                        "content": content,
                        "kB": round(len(data) / 1000),
                        "decoder": reader,
                        "ms": round(medians[reader] * 1e3, 3),
                        "of Pillow": round(medians[reader] / medians[PILLOW], 3),
                        "difference": able[reader],
                    }
                    for reader in sorted(medians, key=medians.__getitem__)
                ]
    return rows


def locks(decoders: dict[str, Decoder]) -> list[Row]:
    """Which decoders let other threads run, on the first format that each reads."""
    rows = []
    for name, call in decoders.items():
        for kind, options in FORMATS.items():
            data = encoded(contents(2048)["photograph"], options)
            if name in readers(data, {name: call}):
                free = lets_others_run(partial(call, data))
                rows.append({"decoder": name, "format": kind, "lets others run": free})
                break
    return rows


def judge(rows: list[Row]) -> list[Aim]:
    """Ours beside the best and beside Pillow, at what generators make."""
    aims = []
    for name in FORMATS:
        some = {
            row["decoder"]: row
            for row in rows
            if (row["format"], row["px"], row["content"]) == (name, 1024, "photograph")
        }
        ours, best = some[OURS], min(some.values(), key=lambda row: row["ms"])
        value = ours["ms"] / some[PILLOW]["ms"]
        note = f"{ours['ms']} ms; the quickest is {best['decoder']}, {best['ms']} ms"
        aims.append(aim(f"{name}, 1,024 px, of Pillow's time", value, 1.1, "x", value <= 1.1, note))
        aims.append(
            aim(
                f"{name}, largest difference from Pillow",
                ours["difference"],
                1,
                "levels",
                ours["difference"] <= 1,
            )
        )
    return aims


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    decoders = candidates()
    rows = measure(decoders, options.rounds)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    config = {
        "rounds": options.rounds,
        "versions": versions(),
        "load": load,
        "clock": "CPU time of the thread",
    }
    emit(Path(__file__).stem, config, {"times": rows, "locks": locks(decoders)}, judge(rows), options.json)


if __name__ == "__main__":
    main()
