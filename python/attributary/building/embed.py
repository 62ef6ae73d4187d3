"""Embedding every item of a corpus, and the probes that an index is tuned with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.items import LOOK
from attributary.encoder.base import Encoder
from attributary.encoder.text import PromptTokenizer
from attributary.errors import InvalidArgumentError
from attributary.pictures import decode, prepare_pixels, read
from attributary.pictures.formats import MAX_BYTES
from attributary.pictures.looks import look_of

from .source import Source

Progress = Callable[[str, int, int], None]

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Probes:
    """Pictures like those a server is asked about: cropped and recoloured items.

    Every second one has a prompt: its item's caption, or another's in turn, since a picture is seldom generated from
    the very words under which its source was published.
    """

    rows: NDArray[np.int64]  # [P] the item that each probe was made from
    pixels: NDArray[np.uint8]  # [P, S, S, 3]
    tokens: list[NDArray[np.int64]]  # P times [T], empty without a prompt
    embeddings: NDArray[np.float32]  # [P, D]
    other_prompt: NDArray[np.bool_]  # [P] whose prompt is not its item's caption

    @property
    def has_prompt(self) -> NDArray[np.bool_]:
        """Which probes were given a prompt."""
        return np.array([tokens.size > 0 for tokens in self.tokens])

    def take(self, chosen: NDArray[np.bool_]) -> Probes:
        """Those of them that are chosen, bool [P]."""
        rows = np.flatnonzero(chosen)
        tokens = [self.tokens[row] for row in rows]
        return Probes(
            self.rows[rows], self.pixels[rows], tokens, self.embeddings[rows], self.other_prompt[rows]
        )


def embed_items(
    source: Source, encoder: Encoder, tokenizer: PromptTokenizer, workers: int, progress: Progress
) -> tuple[NDArray[np.float16], NDArray[np.int8]]:
    """Embed every picture with its caption; returns fp16 [N, D], and what each looks like, int8 [N, *LOOK].

    Pictures are read by `workers` threads.
    """
    captions = [str(caption) for caption in source.table["caption"].to_pylist()]
    vectors = np.empty((len(source), encoder.spec.dim), np.float16)
    looks = np.empty((len(source), *LOOK), np.int8)
    size = encoder.spec.image_size

    def prepare(row: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        pixels = read_picture(source.pictures[row], size)
        looks[row] = look_of(pixels)
        return pixels, tokenizer.encode(captions[row])

    with ThreadPoolExecutor(workers) as pool:
        for rows, prepared in _in_batches(pool, prepare, range(len(source))):
            vectors[rows] = encode(encoder.encode_items, tokenizer, prepared)
            progress("embedding items", rows.stop, len(source))
    return vectors, looks


def make_probes(
    source: Source,
    encoder: Encoder,
    tokenizer: PromptTokenizer,
    count: int,
    seed: int,
    workers: int,
    progress: Progress,
) -> Probes:
    """Crop and recolour `count` items at random and embed them."""
    captions = [str(caption) for caption in source.table["caption"].to_pylist()]
    size = encoder.spec.image_size
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(source), min(count, len(source)), replace=False))
    seeds = rng.integers(0, 2**31, len(rows))
    prompts, other = _prompts(captions, rows)

    def prepare(place: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        picture = read_picture(source.pictures[rows[place]], None)
        pixels = prepare_pixels(_perturb(picture, np.random.default_rng(seeds[place])), size)
        return pixels, tokenizer.encode(prompts[place])

    pixels: list[NDArray[np.uint8]] = []
    tokens: list[NDArray[np.int64]] = []
    embeddings = np.empty((len(rows), encoder.spec.dim), np.float32)
    with ThreadPoolExecutor(workers) as pool:
        for places, prepared in _in_batches(pool, prepare, range(len(rows))):
            embeddings[places] = encode(encoder.encode, tokenizer, prepared)
            pixels += [picture for picture, _ in prepared]
            tokens += [ids for _, ids in prepared]
            progress("embedding probes", places.stop, len(rows))
    return Probes(rows.astype(np.int64), np.stack(pixels), tokens, embeddings, other)


def _prompts(captions: Sequence[str], rows: NDArray[np.int64]) -> tuple[list[str], NDArray[np.bool_]]:
    """The prompt of each probe, and whether it is another item's caption: none, its own, none, another's, and so on."""
    prompts, other = [], np.zeros(len(rows), bool)
    for place, row in enumerate(rows.tolist()):
        prompt = captions[row] if place % 2 else ""
        if place % 4 == 3:
            # Half way round the corpus: neighbours are often of one creator or theme.
            prompt = captions[(row + len(captions) // 2) % len(captions)]
            other[place] = prompt != captions[row]
        prompts.append(prompt)
    return prompts, other


def read_picture(path: Path, size: int | None) -> NDArray[np.uint8]:
    """Read a picture of the corpus, prepared for the encoder if `size` is given; InvalidArgumentError names it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(str(path), f"cannot be read: {error.strerror}") from error
    # Files of the operator's own: how long they are is no danger, how many pixels they have still is.
    most = max(MAX_BYTES, len(data))
    if size is None:
        return decode(data, max_bytes=most, field=str(path))
    return read(data, size, max_bytes=most, field=str(path)).pixels


def _perturb(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Keep a random window of 80 to 95% of each side and bend each channel by a random gamma."""
    height, width = pixels.shape[:2]
    keep = rng.uniform(0.8, 0.95)
    rows, columns = max(1, int(height * keep)), max(1, int(width * keep))
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    window = pixels[top : top + rows, left : left + columns]
    levels = np.arange(256)[:, None] / 255.0
    table = np.rint(255 * levels ** rng.uniform(0.7, 1.4, 3)).astype(np.uint8)
    bent = np.stack([table[window[..., channel], channel] for channel in range(3)], axis=-1)
    return np.ascontiguousarray(bent)


def encode(
    embed: Callable[[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]],
    tokenizer: PromptTokenizer,
    prepared: Sequence[tuple[NDArray[np.uint8], NDArray[np.int64]]],
) -> NDArray[np.float32]:
    """Embed prepared pictures uint8 [S, S, 3] with their tokens int64 [T] by a way of an encoder; float32 [B, D]."""
    ids, mask = tokenizer.pad([tokens for _, tokens in prepared])
    return embed(np.stack([pixels for pixels, _ in prepared]), ids, mask)


def _in_batches(
    pool: ThreadPoolExecutor,
    prepare: Callable[[int], tuple[NDArray[np.uint8], NDArray[np.int64]]],
    rows: range,
) -> Iterator[tuple[slice, list[tuple[NDArray[np.uint8], NDArray[np.int64]]]]]:
    """Prepare ahead by one batch, so that reading pictures overlaps encoding them."""
    starts = range(0, len(rows), _BATCH)
    pending = [pool.submit(prepare, row) for row in rows[:_BATCH]]
    for start in starts:
        ahead = [pool.submit(prepare, row) for row in rows[start + _BATCH : start + 2 * _BATCH]]
        yield slice(start, min(start + _BATCH, len(rows))), [future.result() for future in pending]
        pending = ahead
