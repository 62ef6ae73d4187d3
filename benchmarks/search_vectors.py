"""Vectors to compare indexes on: a bundle's encoder on augmented pictures with prompts, not noise around a few points.

    python benchmarks/search_vectors.py --bundle out/bundle --corpus out/corpus --count 100000

Item i is picture i mod N of the corpus, cropped, mirrored and recoloured by a generator seeded with i; its prompt is
the picture's caption, another's, or none. Queries are made the same way from every 30th picture, which no item is made
of. Leaves `items.npy` (float16 [count, D]), `queries.npy` (float32 [1000, D]), unit rows, and `about.json` with their
digests. Picks up where it was stopped: a block that is complete is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

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
    given = parser.parse_args()
    source = read_source(given.corpus)
    captions = [str(caption) for caption in source.table["caption"].to_pylist()]
    pictures = np.arange(len(source))
    asked, kept = pictures[::HELD_OUT_EVERY], pictures[pictures % HELD_OUT_EVERY > 0]
    engine = open_engine(given.bundle, encoder_threads=1)

    def prepared(job: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        seed, place = job
        rng = np.random.default_rng(seed)
        pixels = prepare_pixels(augmented(source.pictures[place], rng), engine.encoder.spec.image_size)
        return pixels, engine.tokenizer.encode(prompt_of(captions, place, rng))

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
                jobs = [(seed + number, int(places[number % len(places)])) for number in block]
                ready = list(pool.map(prepared, jobs))
                batches = [ready[start : start + BATCH] for start in range(0, len(ready), BATCH)]
                vectors = [encode(way, engine.tokenizer, batch) for batch in batches]
                partial = path.with_suffix(".part")
                with partial.open("wb") as file:
                    np.save(file, np.concatenate(vectors))
                partial.rename(path)
                print(f"{name}: {block.stop:,} of {count:,}", flush=True)
    for name, count, dtype in (("queries", QUERIES, np.float32), ("items", given.count, np.float16)):
        made = [np.load(parts / f"{name}-{b.start:09d}-{b.stop:09d}.npy") for b in blocks(count)]
        np.save(given.out / f"{name}.npy", np.concatenate(made).astype(dtype))
    about = {
        "bundle": engine.bundle.manifest.bundle_id,
        "items": given.count,
        "pictures": len(kept),
        "digests": {
            name: sha256((given.out / f"{name}.npy").read_bytes()).hexdigest()
            for name in ("items", "queries")
        },
    }
    (given.out / "about.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
