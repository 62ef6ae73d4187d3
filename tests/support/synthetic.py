"""A tiny corpus for tests: drawn shapes with concepts and creators, the same everywhere, with nothing to fetch."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from attributary_train.corpus.build import build
from attributary_train.corpus.corpus import Corpus
from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.names import ConceptNames
from attributary_train.corpus.sources.base import Drawing, SourceReport

SHAPES = ("disc", "ring", "triangle", "square", "pentagon", "star", "cross", "crescent", "arrow", "bars")
COLOURS = {
    "red": (214, 48, 49),
    "green": (39, 174, 96),
    "blue": (41, 98, 217),
    "yellow": (241, 196, 15),
    "purple": (142, 68, 173),
}
# A creator has a hand: background, outline width in pixels, turn in degrees, scale.
CREATORS = {
    "Ada Sample": ((255, 255, 255), 0, 0.0, 0.80),
    "Ben Probe": ((255, 244, 214), 6, 15.0, 0.66),
    "Cleo Token": ((225, 240, 255), 0, 40.0, 0.92),
    "Dag Pattern": ((240, 225, 240), 10, -20.0, 0.55),
}
MAX_ITEMS = len(SHAPES) * len(COLOURS) * len(CREATORS)
_SIDE = 256


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Every shape in every colour by every creator: `count` of them, at most `MAX_ITEMS` (200)."""

    count: int = MAX_ITEMS
    name: str = "synthetic"
    held_out_default: bool = True
    uses_names: bool = False

    def drawings(self, cache: PackageCache, names: ConceptNames, report: SourceReport) -> Iterator[Drawing]:
        """Yield the drawings, one creator after the other within a concept."""
        everything = ((s, c, who) for s in SHAPES for c in COLOURS for who in CREATORS)
        for (shape, colour, creator), _ in zip(everything, range(self.count), strict=False):
            key = f"synthetic/{shape}-{colour}-{creator.split()[0].lower()}"
            yield Drawing(
                key=key,
                uri=key,
                caption=f"{colour} {shape}",
                keywords=(colour, shape),
                concept_id=f"{colour}-{shape}",
                creator=creator,
                creator_url=f"https://example.org/{creator.split()[0].lower()}",
                style_set=creator.split()[0].lower(),
                family="synthetic",
                licence_spdx="CC0-1.0",
                licence_url="https://creativecommons.org/publicdomain/zero/1.0/",
                payload=_png(draw(shape, colour, creator)),
            )


def synthetic_corpus(out: Path, count: int = MAX_ITEMS) -> Corpus:
    """Build the corpus of `Synthetic(count)` into `out` and open it; takes about two seconds for all 200."""
    build(out, [Synthetic(count)], cache=out.parent / f"{out.name}-cache", workers=1)
    return Corpus.open(out)


def draw(shape: str, colour: str, creator: str) -> Image.Image:
    """Draw one shape of `SHAPES` in a colour of `COLOURS` by a hand of `CREATORS`: 256 x 256 RGB."""
    background, outline, turn, scale = CREATORS[creator]
    # Drawn twice as large and shrunk: Pillow's shapes have no soft edges of their own.
    side = 2 * _SIDE
    mask = Image.new("L", (side, side), 0)
    _shape(ImageDraw.Draw(mask), shape, side, side * scale / 2)
    mask = mask.rotate(turn, Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (side, side), background)
    if outline:
        mask_small = np.asarray(mask.resize((_SIDE, _SIDE)).point(lambda level: 255 * (level > 0)))
        reach = np.zeros_like(mask_small)
        for dy in range(-outline // 2, outline // 2 + 1, 2):
            for dx in range(-outline // 2, outline // 2 + 1, 2):
                reach = np.maximum(reach, np.roll(mask_small, (dy, dx), (0, 1)))
        canvas.paste((40, 40, 40), mask=Image.fromarray(reach).resize((side, side)))
    canvas.paste(COLOURS[colour], mask=mask)
    return canvas.resize((_SIDE, _SIDE), Image.Resampling.BOX)


def _shape(pen: ImageDraw.ImageDraw, shape: str, side: int, reach: float) -> None:
    middle = side / 2
    low, high = middle - reach, middle + reach
    if shape in ("disc", "ring", "crescent"):
        pen.ellipse((low, low, high, high), fill=255)
        if shape == "ring":
            pen.ellipse(
                (middle - reach / 2, middle - reach / 2, middle + reach / 2, middle + reach / 2), fill=0
            )
        if shape == "crescent":
            pen.ellipse((low + reach * 0.7, low, high + reach * 0.7, high), fill=0)
    elif shape == "cross":
        pen.rectangle((low, middle - reach / 3, high, middle + reach / 3), fill=255)
        pen.rectangle((middle - reach / 3, low, middle + reach / 3, high), fill=255)
    elif shape == "bars":
        for bar in (-1.0, -0.2, 0.6):
            pen.rectangle((low, middle + bar * reach, high, middle + (bar + 0.4) * reach), fill=255)
    elif shape == "arrow":
        pen.rectangle((low, middle - reach / 4, middle, middle + reach / 4), fill=255)
        pen.polygon([(middle, low + reach / 4), (high, middle), (middle, high - reach / 4)], fill=255)
    else:
        pen.polygon(_corners(shape, middle, reach), fill=255)


def _corners(shape: str, middle: float, reach: float) -> list[tuple[float, float]]:
    count = {"triangle": 3, "square": 4, "pentagon": 5, "star": 10}[shape]
    start = math.pi / 4 if shape == "square" else -math.pi / 2
    corners = []
    for corner in range(count):
        radius = reach * (0.45 if shape == "star" and corner % 2 else 1.0)
        angle = start + 2 * math.pi * corner / count
        corners.append((middle + radius * math.cos(angle), middle + radius * math.sin(angle)))
    return corners


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
