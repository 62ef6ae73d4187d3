"""The square picture of every item: 256 x 256 RGB, rendered once and kept by content."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from attributary_train.corpus import near_dup

IMAGE_SIZE = 256
# Part of every cache key: a change of how pixels come about must not meet old pixels.
RASTER_VERSION = "1"
MAX_SOURCE_PIXELS = 20_000_000
# Levels between the darkest and the lightest value below which a picture shows nothing.
BLANK_RANGE = 8


class RenderError(Exception):
    """An image that cannot become an item; the text says why."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What rendering found out; `problem` is set where there is no picture, and then the rest is empty."""

    digest: str  # names the PNG in the cache
    sha256: str  # of the RGB bytes of the picture that is embedded
    embedding: NDArray[np.float16]  # [near_dup.DIM]
    problem: str = ""
    kept: bytes = b""  # of a picture of one's own: what to keep in place of the payload, if it is not that


def render(payload: bytes, svg: bool = False) -> Image.Image:
    """Decode a raster image, or render an SVG if `svg` allows it.

    The result is RGB over white, 256 x 256, the picture fitted in without distortion.
    Raises `RenderError` for what cannot be read, shows nothing or has more than `MAX_SOURCE_PIXELS` pixels.
    """
    if not payload:
        raise RenderError("the file is empty")
    image = _from_svg(payload) if svg and payload.lstrip()[:1] == b"<" else open_raster(payload)
    fitted = ImageOps.contain(image, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "white")
    corner = ((IMAGE_SIZE - fitted.width) // 2, (IMAGE_SIZE - fitted.height) // 2)
    canvas.paste(fitted, corner, fitted if fitted.mode == "RGBA" else None)
    refuse_blank(canvas)
    return canvas


def refuse_blank(image: Image.Image) -> None:
    """Raise `RenderError` for an RGB picture that shows nothing."""
    low, high = zip(*image.getextrema(), strict=True)
    if max(high) - min(low) < BLANK_RANGE:
        raise RenderError("blank")


def render_cached(payload: bytes | Path, svg: bool, cache: Path) -> Rendered:
    """Render `payload` unless `cache` holds it already; never raises for a bad image, but says so in the result."""
    try:
        data = payload_bytes(payload, svg)
    except RenderError as error:
        return failed(str(error))
    digest = hashlib.sha256(f"{RASTER_VERSION}:{IMAGE_SIZE}:".encode() + data).hexdigest()
    path = cached_png(cache, digest)
    try:
        image = _reopen(path) or _render_into(path, data, svg)
    except RenderError as error:
        return failed(str(error), digest)
    pixels = np.asarray(image)
    return Rendered(
        digest, hashlib.sha256(pixels.tobytes()).hexdigest(), near_dup.embed(pixels).astype(np.float16)
    )


def cached_png(cache: Path, digest: str) -> Path:
    """Where the PNG of a payload is kept."""
    return cache / digest[:2] / f"{digest}.png"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a restart after a kill, sees the whole of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        # mkstemp makes files private; a corpus is meant to be read by others.
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def payload_bytes(payload: bytes | Path, svg: bool) -> bytes:
    """Read a payload; raises `RenderError` for a file that cannot be read, or an SVG where `svg` forbids it."""
    try:
        data = payload if isinstance(payload, bytes) else payload.read_bytes()
    except OSError as error:
        raise RenderError(f"cannot be read: {error.strerror}") from error
    if not svg and data.lstrip()[:1] == b"<":
        # Refused before the cache is asked: another source may have rendered the same bytes with leave to.
        raise RenderError("not a readable image: SVG is taken from pinned packages only")
    return data


def failed(problem: str, digest: str = "") -> Rendered:
    """There is no picture, and why."""
    return Rendered(digest, "", np.zeros(0, np.float16), problem)


def _reopen(path: Path) -> Image.Image | None:
    if not path.exists():
        return None
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError:
        # Whoever damaged it, rendering again repairs it.
        return None


def _render_into(path: Path, data: bytes, svg: bool) -> Image.Image:
    image = render(data, svg)
    write_png(path, image)
    return image


def write_png(path: Path, image: Image.Image) -> None:
    """Write a picture whole or not at all."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def _from_svg(payload: bytes) -> Image.Image:
    text = payload.decode("utf-8", errors="replace")
    try:
        image = _svg_image(text, width=IMAGE_SIZE)
        if image.height > IMAGE_SIZE:
            image = _svg_image(text, height=IMAGE_SIZE)
    except Exception as error:  # resvg's errors share no base class of their own
        raise RenderError(f"not a drawable SVG: {error}") from error
    return image


def _svg_image(text: str, width: int | None = None, height: int | None = None) -> Image.Image:
    png = bytes(resvg_py.svg_to_bytes(svg_string=text, width=width, height=height))
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGBA")


def open_raster(payload: bytes) -> Image.Image:
    """Decode what Pillow reads, upright, as RGB or RGBA; raises `RenderError`."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images before the limit below has its say.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(payload)) as image:
                if image.width * image.height > MAX_SOURCE_PIXELS:
                    raise RenderError(f"more than {MAX_SOURCE_PIXELS} pixels")
                return _to_rgb(ImageOps.exif_transpose(image))
    except RenderError:
        raise
    except Image.DecompressionBombError as error:
        raise RenderError(f"more than {MAX_SOURCE_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        # Its own text is the address of a buffer.
        raise RenderError("not a readable image: of no known format") from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise RenderError(f"not a readable image: {error or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey on conversion; scale it instead.
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_levels(np.asarray(image, np.float64), image.mode == "F")).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB")


def _levels(samples: NDArray[np.float64], real: bool) -> NDArray[np.uint8]:
    """Grey of 32 bits a sample, as 8 bits, by the least customary scale that holds it: nothing else says which it is.

    Real numbers may go to 1. Raises `RenderError` for what no scale holds.
    """
    low, high = float(samples.min()), float(samples.max())
    white = next((most for most in ((1.0,) if real else ()) + (255.0, 65_535.0) if high <= most), None)
    if white is None or not low >= 0:
        raise RenderError(
            f"not a readable image: samples of 32 bits from {low:g} to {high:g}; they may go from 0 to "
            f"{'1, ' if real else ''}255 or 65535"
        )
    scaled: NDArray[np.uint8] = np.rint(samples * (255 / white)).astype(np.uint8)
    return scaled
