"""Vectors to compare indexes on: a bundle's encoder on augmented pictures with prompts, not noise around a few points.

    python benchmarks/search_vectors.py --bundle out/bundle --corpus out/corpus --count 100000
    python benchmarks/search_vectors.py --bundle out/demo/bundle --precision int8 --prompts-a-picture 8 \
        --count 1000000 --out out/bench/vectors-1m

Item i is picture i mod N of the corpus, cropped, mirrored and recoloured by a generator seeded with i; its prompt is
the picture's caption, another's, or none. Queries are made the same way from every 30th picture, which no item is made
of. Leaves `items.npy` (float16 [count, D]), `queries.npy` (float32 [1000, D]), unit rows, and `about.json` with their
digests. Picks up where it was stopped: a block that is complete is not made again.

`--prompts-a-picture P` is for an encoder whose halves do not see each other, such as the untuned one: so many items in
a row share an augmented picture, each with a prompt of its own, and each half is computed once. A sample is encoded as
a whole to see that it is the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from attributary.attribution.engine import Engine
from attributary.attribution.open import open_engine
from attributary.building.embed import encode
from attributary.building.source import read_source
from attributary.encoder import prepare_pixels

BLOCK = 2_048
BATCH = 64
QUERIES = 1_000
HELD_OUT_EVERY = 30


def augmented(path: Path, rng: np.random.Generator) -> np.ndarray:
    """Crop between half and all of a picture, mirror it, change its colours: uint8 [H, W, 3]."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    width, height = picture.size
    kept = rng.uniform(0.5, 1.0) ** 0.5
    left, top = rng.uniform(0, 1 - kept, 2)
    picture = picture.crop(
        (
            int(left * width),
            int(top * height),
            int((left + kept) * width),
            int((top + kept) * height),
        )
    )
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(rng.uniform(0.7, 1.3))
    return np.asarray(picture)


def prompt_of(captions: Sequence[str], place: int, rng: np.random.Generator) -> str:
    """Own caption for half, another's for a quarter, none for a quarter."""
    draw = rng.random()
    if draw < 0.5:
        return captions[place]
    return captions[int(rng.integers(len(captions)))] if draw < 0.75 else ""


class Halves:
    """Vectors of pictures and of prompts, put together."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        size = engine.encoder.spec.image_size
        self._blank = np.zeros((size, size, 3), np.uint8)
        self._prompts: dict[str, np.ndarray] = {"": np.zeros(engine.encoder.spec.dim, np.float32)}

    def pictures(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors without a prompt, float32 [B, D]."""
        nothing = self._engine.tokenizer.encode("")
        return self._whole([(one, nothing) for one in pixels])

    def prompt(self, words: str) -> np.ndarray:
        """What a prompt adds to a picture's vector of unit length, float32 [D]."""
        if words not in self._prompts:
            vector = self._whole([(self._blank, self._engine.tokenizer.encode(words))])[0]
            seen = self.pictures([self._blank])[0] != 0
            self._prompts[words] = np.where(seen, 0, vector) / np.linalg.norm(vector[seen])
        return self._prompts[words]

    def together(self, pictures: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Vectors of pictures [B, D] with prompts, float32 [B, D]."""
        rows: np.ndarray = pictures + np.stack([self.prompt(words) for words in prompts])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    def check(self, pixels: Sequence[np.ndarray], prompts: Sequence[str]) -> None:
        """End where the halves see each other."""
        tokens = map(self._engine.tokenizer.encode, prompts)
        whole = self._whole(list(zip(pixels, tokens, strict=True)))
        least = float((whole * self.together(self.pictures(pixels), prompts)).sum(axis=1).min())
        if least < 0.999:
            raise SystemExit(f"the halves of this encoder see each other: cosine {least:.4f} to the whole")

    def _whole(self, prepared: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        return encode(self._engine.encoder.encode_items, self._engine.tokenizer, prepared)


def blocks(count: int) -> Iterator[range]:
    """Ranges of at most BLOCK that cover `count`."""
    for start in range(0, count, BLOCK):
        yield range(start, min(start + BLOCK, count))


def main() -> None:
    """Embed what is missing and join the blocks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("out/bundle"))
    parser.add_argument("--corpus", type=Path, default=Path("out/corpus"))
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("out/bench/vectors"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    parser.add_argument("--prompts-a-picture", type=int, default=1)
    given = parser.parse_args()
    source = read_source(given.corpus)
    captions = [str(caption) for caption in source.table["caption"].to_pylist()]
    pictures = np.arange(len(source))
    asked, kept = pictures[::HELD_OUT_EVERY], pictures[pictures % HELD_OUT_EVERY > 0]
    engine = open_engine(given.bundle, encoder_threads=1, precision=given.precision)
    halves, shared = Halves(engine), given.prompts_a_picture

    def prepared(job: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
        seed, place = job
        rng = np.random.default_rng(seed)
        pixels = prepare_pixels(augmented(source.pictures[place], rng), engine.encoder.spec.image_size)
        return pixels, [prompt_of(captions, place, rng) for _ in range(shared)]

    def vectors(way: Callable[..., np.ndarray], ready: Sequence[tuple[np.ndarray, list[str]]]) -> np.ndarray:
        if shared == 1:
            asked = [(pixels, engine.tokenizer.encode(prompts[0])) for pixels, prompts in ready]
            return encode(way, engine.tokenizer, asked)
        seen = halves.pictures([pixels for pixels, _ in ready])
        prompts = [words for _, own in ready for words in own]
        return halves.together(np.repeat(seen, shared, axis=0), prompts)

    parts = given.out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(given.workers) as pool:
        for name, way, count, places, seed in (
            ("queries", engine.encoder.encode, QUERIES, asked, 10**9),
            ("items", engine.encoder.encode_items, given.count, kept, 0),
        ):
            for block in blocks(count):
                path = parts / f"{name}-{block.start:09d}-{block.stop:09d}.npy"
                if path.exists():
                    continue
                numbers = range(block.start // shared, -(-block.stop // shared))
                jobs = [(seed + number, int(places[number % len(places)])) for number in numbers]
                ready = list(pool.map(prepared, jobs))
                if shared > 1 and block.start == 0:
                    halves.check([pixels for pixels, _ in ready[:20]], [words[0] for _, words in ready[:20]])
                batches = [ready[start : start + BATCH] for start in range(0, len(ready), BATCH)]
                made = np.concatenate([vectors(way, batch) for batch in batches])[: len(block)]
                partial = path.with_suffix(".part")
                with partial.open("wb") as file:
                    np.save(file, made)
                partial.rename(path)
                print(f"{name}: {block.stop:,} of {count:,}", flush=True)
    for name, count, dtype in (("queries", QUERIES, np.float32), ("items", given.count, np.float16)):
        rows = [np.load(parts / f"{name}-{b.start:09d}-{b.stop:09d}.npy") for b in blocks(count)]
        np.save(given.out / f"{name}.npy", np.concatenate(rows).astype(dtype))
    about = {
        "bundle": engine.bundle.manifest.bundle_id,
        "items": given.count,
        "pictures": len(kept),
        "prompts_a_picture": shared,
        "precision": given.precision,
        "digests": {
            name: sha256((given.out / f"{name}.npy").read_bytes()).hexdigest()
            for name in ("items", "queries")
        },
    }
    (given.out / "about.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
