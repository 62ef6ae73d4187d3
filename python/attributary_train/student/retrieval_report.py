"""The retrieval measurement, end to end: pictures and prompts through an exported encoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import click
import numpy as np
from numpy.typing import NDArray

from attributary.bundle.bundle import Bundle
from attributary.encoder import OnnxEncoder, PromptTokenizer, prepare_pixels
from attributary_train.evaluation.tables import Row, aim, report
from attributary_train.towers.cache import FeatureCache

from .pictures import Pictures
from .retrieval import FloatArray, draw_concepts, draw_copies, measure_concepts, measure_copies
from .splits import Split

# Shares of queries that the demo promises.
COPIES_AIM, CONCEPTS_AIM = 0.95, 0.60

_Query = tuple[NDArray[np.uint8], str]


@dataclass(frozen=True, slots=True)
class Setup:
    """What to measure."""

    bundle: Path | None
    encoder: Path | None
    corpus: Path
    held_out: Path | None
    split: str
    copies: int
    int8: bool
    threads: int
    cache: Path | None


def measure(setup: Setup) -> Row:
    """Run both questions; returns the report that `--json` prints."""
    corpus = Pictures.open(setup.corpus)
    embedder = _Embedder(setup)
    index = embedder.index(corpus)
    results, aims = _copies(setup, corpus, embedder, index)
    if setup.held_out is not None:
        more, more_aims = _concepts(setup, corpus, Pictures.open(setup.held_out), embedder, index)
        results |= more
        aims += more_aims
    config = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(setup).items()}
    config["index_items"], config["dim"] = index.shape
    config["encoder_digest"] = embedder.encoder.spec.digest
    # Aims are this house's, about its own drawings.
    return report("evaluate-retrieval", config, results, [] if corpus.own else aims)


def _copies(setup: Setup, corpus: Pictures, embedder: _Embedder, index: FloatArray) -> tuple[Row, list[Row]]:
    queries = draw_copies(corpus.ids, cast(Split, setup.split), setup.copies)
    vectors = embedder.embed([(corpus.copy(queries, i), "") for i in range(len(queries.originals))])
    found = measure_copies(index, np.array(corpus.groups, np.int64), vectors, queries)
    note = f"{found.queries} copies; {found.group_first:.3f} counting near duplicates of the original"
    return {"copies": asdict(found)}, [_share("copies at rank 1", found.original_first, COPIES_AIM, note)]


def _concepts(
    setup: Setup, corpus: Pictures, held_out: Pictures, embedder: _Embedder, index: FloatArray
) -> tuple[Row, list[Row]]:
    rows = draw_concepts(held_out.concepts, corpus.concepts, cast(Split, setup.split))
    indexed: NDArray[np.str_] = np.array(corpus.concepts)
    wanted: NDArray[np.str_] = np.array(held_out.concepts)[rows]
    results, aims = {}, []
    for name, prompts in (("concepts", False), ("concepts_with_prompt", True)):
        questions = [(held_out.picture(row), held_out.captions[row] if prompts else "") for row in rows]
        found = measure_concepts(index, indexed, embedder.embed(questions), wanted)
        results[name] = asdict(found)
        note = f"{found.queries} drawings by held-out creators"
        aims.append(_share(f"{name} in the top 10", found.in_top_10, CONCEPTS_AIM, note))
    return results, aims


class _Embedder:
    """The encoder of a bundle or of an export, asked in small batches."""

    def __init__(self, setup: Setup) -> None:
        folder = setup.bundle or setup.encoder
        assert folder is not None
        self._bundle = Bundle.open(folder) if setup.bundle else None
        self._cache = setup.cache or folder / "embeddings"
        self._original = OnnxEncoder(folder / "encoder.onnx", threads=setup.threads)
        self.encoder = self._original
        if setup.int8:
            self.encoder = OnnxEncoder(folder / "encoder.int8.onnx", threads=setup.threads)
        if self.encoder.vectors_of != self._original.spec.digest:
            raise click.ClickException("encoder.int8.onnx is no variant of the encoder.onnx beside it")
        self._tokenizer = PromptTokenizer.from_file(folder / "tokenizer.json", self.encoder.spec.max_tokens)

    def embed(self, queries: list[_Query], batch: int = 8) -> FloatArray:
        """Pictures of any size and prompts ("" for none) to unit vectors, float32 [Q, D]."""
        parts = [np.zeros((0, self.encoder.spec.dim), np.float32)]
        for start in range(0, len(queries), batch):
            parts.append(self._embed(self.encoder, queries[start : start + batch]))
        return np.concatenate(parts)

    def index(self, corpus: Pictures) -> FloatArray:
        """Vectors of the corpus in its own order: the bundle's, or computed by the fp32 encoder."""
        if self._bundle is not None:
            rows = [self._bundle.items.row_of(number) for number in corpus.ids]
            if None in rows:
                raise click.ClickException("the bundle was built from another corpus")
            kept: FloatArray = np.asarray(self._bundle.vectors)[np.array(rows)].astype(np.float32)
            return kept
        spec = self._original.spec
        cache = FeatureCache(self._cache, f"embedding-{spec.digest[:16]}", spec.dim)
        items = zip(corpus.hashes, corpus.captions, strict=True)
        return cache.rows(
            [f"{picture} {caption}" for picture, caption in items],
            lambda rows: self._embed(
                self._original, [(corpus.picture(row), corpus.captions[row]) for row in rows]
            ),
            batch=8,
        )

    def _embed(self, encoder: OnnxEncoder, queries: list[_Query]) -> FloatArray:
        size = encoder.spec.image_size
        pixels = np.stack([prepare_pixels(picture, size) for picture, _ in queries])
        ids, mask = self._tokenizer.pad([self._tokenizer.encode(prompt) for _, prompt in queries])
        return encoder.encode(pixels, ids, mask)


def _share(name: str, value: float, wanted: float, note: str) -> Row:
    return aim(name, value, wanted, "share", value >= wanted, note)
