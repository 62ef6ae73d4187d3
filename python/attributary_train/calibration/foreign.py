"""Pictures that the generator did not make: what the out-of-distribution flag is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from attributary_train.errors import CalibrationError
from attributary_train.evaluation.opening import Subject
from attributary_train.files import reading
from attributary_train.generators.latents import decode
from attributary_train.subject.model import SubjectModel, new_scheduler, new_unet
from attributary_train.subject.queries import Queries
from attributary_train.subject.sample import sample
from attributary_train.subject.text import token_states

Picture = npt.NDArray[np.uint8]
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def pictures_in(folder: Path, count: int, size: int, seed: int = 0) -> list[Picture]:
    """At most `count` pictures from a folder and those below it, chosen at random, as uint8 [size, size, 3].

    Each is cropped to its central square and reduced as a generator's output would be, so that sharpness alone does not
    give it away. Raises `CalibrationError` for a folder without pictures.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise CalibrationError(str(folder), f"holds no picture ({', '.join(sorted(_SUFFIXES))})")
    chosen = np.random.default_rng(seed).permutation(len(paths))[:count]
    return [_square(paths[at], size) for at in np.sort(chosen)]


def _square(path: Path, size: int) -> Picture:
    with reading(path, CalibrationError, "is not a readable picture"), Image.open(path) as image:
        picture = image.convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BOX))


def noise(count: int, size: int, seed: int = 0) -> list[Picture]:
    """Noise of four grains, from single pixels to eighths of the side: uint8 [size, size, 3]."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        side = max(2, size >> (number % 4))
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        made.append(np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)))
    return made


def flat(count: int, size: int, seed: int = 0) -> list[Picture]:
    """One colour each, white and black first: uint8 [size, size, 3]."""
    colours = np.random.default_rng(seed).integers(0, 256, (count, 3), np.uint8)
    colours[:2] = np.array([[255] * 3, [0] * 3])[: len(colours)]
    return [np.tile(colour, (size, size, 1)) for colour in colours]


def gradients(count: int, size: int, seed: int = 0) -> list[Picture]:
    """From one colour to another along any direction: uint8 [size, size, 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] / max(size - 1, 1)
    made = []
    for _ in range(count):
        angle, ends = rng.uniform(0, 2 * np.pi), rng.uniform(0, 256, (2, 3))
        along = np.cos(angle) * rows + np.sin(angle) * columns
        part = ((along - along.min()) / np.ptp(along))[..., None]
        made.append(np.asarray(np.clip(ends[0] * (1 - part) + ends[1] * part, 0, 255), np.uint8))
    return made


def pages(count: int, size: int, seed: int = 0) -> list[Picture]:
    """Lines of text, every other one in the panels and bars of a screen: uint8 [size, size, 3]."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        paper = Image.new("RGB", (4 * size, 4 * size), "white" if rng.random() < 0.7 else "#202428")
        draw = ImageDraw.Draw(paper)
        ink = "black" if paper.getpixel((0, 0)) == (255, 255, 255) else "white"
        if number % 2:
            shade = tuple(int(one) for one in rng.integers(0, 256, 3))
            draw.rectangle((0, 0, 4 * size, size // 3), fill=shade)
            draw.rectangle((0, size // 3, int(rng.integers(size // 2, size)), 4 * size), fill="#c8ccd0")
        for line in range(size // 2, 4 * size - 12, int(rng.integers(12, 26))):
            letters = rng.integers(97, 123, int(rng.integers(4, 2 * size // 3)))
            draw.text((size // 3, line), "".join(map(chr, letters.tolist())), fill=ink)
        made.append(np.asarray(paper.resize((size, size), Image.Resampling.BOX)))
    return made


def climbed(
    likeness: Callable[[list[Picture]], npt.NDArray[np.float32]],
    count: int,
    size: int,
    seed: int = 0,
    steps: int = 100,
) -> list[Picture]:
    """Adversarial ones: gradients changed in patches at random for as long as `likeness` [Q] rises; uint8 [S, S, 3]."""
    rng = np.random.default_rng(seed)
    best = np.stack(gradients(count, size, seed)).astype(np.int16)
    score = likeness(list(best.astype(np.uint8)))
    for step in range(steps):
        cells = (4, 8, 16)[step % 3]
        patches = rng.integers(-64, 65, (count, cells, cells, 3)) * (
            rng.random((count, cells, cells, 1)) < 0.2
        )
        change = np.kron(patches, np.ones((1, size // cells, size // cells, 1), np.int64))
        tried = np.clip(best + change, 0, 255).astype(np.int16)
        found = likeness(list(tried.astype(np.uint8)))
        better = found > score
        best[better], score[better] = tried[better], found[better]
    return list(best.astype(np.uint8))


def untrained(subject: Subject, queries: Queries, count: int, seed: int = 0) -> list[Picture]:
    """What a generator of the same shape with random weights makes of the same prompts: uint8 [S, S, 3]."""
    import torch

    torch.manual_seed(seed)
    unet = new_unet(subject.recipe).eval().requires_grad_(False)
    model = SubjectModel(unet, new_scheduler(subject.recipe), "untrained", {})
    some = queries.take(range(min(count, len(queries))))
    empty = token_states([""], some.text.shape[1])[0]
    latents = sample(model, some.text, empty, list(some.seeds), steps=10, guidance=queries.guidance)
    return list(decode(subject.autoencoder, latents))
