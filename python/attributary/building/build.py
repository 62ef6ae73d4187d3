"""The builder: embed, index, tune, calibrate, record golden queries, and only then give the directory its name."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.attribution.engine import Engine
from attributary.attribution.golden import make_golden
from attributary.attribution.types import Filter, Prepared
from attributary.bundle.bundle import ENCODER, ENCODER_INT8, INDEX, TOKENIZER, VECTORS, Bundle
from attributary.bundle.files import new_directory, sha256
from attributary.bundle.golden import GOLDEN, Golden
from attributary.bundle.items import ITEMS, ItemTable
from attributary.bundle.manifest import (
    SCHEMA_VERSION,
    EncoderEntry,
    IndexEntry,
    Manifest,
    SubjectEntry,
)
from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer
from attributary.errors import InvalidArgumentError
from attributary.index.planning import IndexBudget
from attributary.index.tuning import TunedIndex, build_index

from .calibrate import calibrate
from .embed import Probes, Progress, embed_items, make_probes
from .source import Source, read_source

PREPROCESSING = "pillow-13 bicubic, antialiased, short side; centre crop; uint8 RGB"
UNTUNED = SubjectEntry(id="none (untuned encoder)", weights_digest="")
_GOLDEN_QUERIES = 8


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was built and what it reached."""

    directory: Path
    manifest: Manifest
    target_recall_met: bool


def build_bundle(
    corpus: Path,
    encoder_dir: Path,
    out: Path,
    *,
    budget: IndexBudget | None = None,
    version: str = "1",
    student: str = "untuned",
    subject: SubjectEntry = UNTUNED,
    exclude_creators: tuple[str, ...] = (),
    limit: int | None = None,
    probes: int = 2_000,
    seed: int = 0,
    workers: int | None = None,
    force: bool = False,
    progress: Progress = lambda phase, done, total: None,
) -> BuildReport:
    """Build a bundle in `out` from a corpus directory and an exported encoder directory.

    `encoder_dir` holds encoder.onnx, tokenizer.json and possibly encoder.int8.onnx. The directory appears whole or
    not at all. Raises InvalidArgumentError naming what is wrong, FileExistsError if `out` exists and not `force`.
    """
    workers = workers or os.cpu_count() or 1
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; choose another path or pass --force")
    for name in (ENCODER, TOKENIZER):
        if not (encoder_dir / name).is_file():
            raise InvalidArgumentError(
                "encoder", f"{encoder_dir / name} does not exist; export the encoder first"
            )
    source = read_source(corpus, exclude_creators, limit)
    encoder = OnnxEncoder(encoder_dir / ENCODER, threads=workers)
    tokenizer = PromptTokenizer.from_file(encoder_dir / TOKENIZER, encoder.spec.max_tokens)
    vectors = embed_items(source, encoder, tokenizer, workers, progress)
    # Tiny corpora still need enough probes to measure recall with; repeats of an item differ by their crop.
    asked = make_probes(source, encoder, tokenizer, probes, seed, workers, progress)
    progress("building the index", 0, 1)
    tuned = build_index(vectors, _at_least(asked.embeddings, 20), budget or IndexBudget(), seed)
    progress("building the index", 1, 1)
    with new_directory(out, force) as scratch:
        _copy_encoder(encoder_dir, scratch)
        tuned.index.write(scratch / INDEX)
        np.save(scratch / VECTORS, vectors)
        pq.write_table(source.table, scratch / ITEMS, compression="zstd")
        items = ItemTable(source.table)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            version=version,
            subject=subject,
            student=student,
            encoder=EncoderEntry(preprocessing=PREPROCESSING, **asdict(encoder.spec)),
            index=_index_entry(tuned, encoder.spec.digest, vectors),
            calibration=calibrate(asked, vectors, items, tuned.index, tuned.candidates),
            item_count=len(source),
            creator_count=len(items.creator_names),
            files={},
            notes=_notes(corpus, source),
        )
        golden = _record_golden(scratch, manifest, items, vectors, encoder, tuned, asked)
        golden.write(scratch / GOLDEN)
        manifest = replace(manifest, files={path.name: sha256(path) for path in sorted(scratch.iterdir())})
        manifest.write(scratch)
    return BuildReport(out, manifest, tuned.met)


def _copy_encoder(encoder_dir: Path, scratch: Path) -> None:
    for name in (ENCODER, TOKENIZER):
        shutil.copyfile(encoder_dir / name, scratch / name)
    if (encoder_dir / ENCODER_INT8).is_file():
        shutil.copyfile(encoder_dir / ENCODER_INT8, scratch / ENCODER_INT8)


def _index_entry(tuned: TunedIndex, digest: str, vectors: NDArray[np.float16]) -> IndexEntry:
    return IndexEntry(
        factory=tuned.factory,
        encoder_digest=digest,
        nprobe=tuned.nprobe,
        candidates=tuned.candidates,
        recall_at_10=round(tuned.recall_at_10, 4),
        recall_queries=tuned.recall_queries,
        bytes_per_item=round(tuned.bytes_per_item, 1),
        vector_bytes_per_item=float(vectors.shape[1] * vectors.itemsize),
    )


def _record_golden(
    scratch: Path,
    manifest: Manifest,
    items: ItemTable,
    vectors: NDArray[np.float16],
    encoder: OnnxEncoder,
    tuned: TunedIndex,
    asked: Probes,
) -> Golden:
    nothing = np.zeros(0)
    blank = Golden(*(nothing for _ in range(8)))  # type: ignore[arg-type]  # replaced by what is recorded here
    engine = Engine(Bundle(scratch, manifest, items, vectors, blank), encoder, tuned.index)
    chosen = np.unique(np.linspace(0, len(asked.rows) - 1, _GOLDEN_QUERIES).round().astype(int))
    queries = [
        Prepared(
            top_k=1,
            top_creators=0,
            filter=Filter(),
            has_prompt=asked.tokens[place].size > 0,
            pixels=asked.pixels[place],
            tokens=asked.tokens[place],
        )
        for place in chosen.tolist()
    ]
    return make_golden(engine, queries)


def _at_least(queries: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    return np.resize(queries, (max(count, len(queries)), queries.shape[1]))


def _notes(corpus: Path, source: Source) -> dict[str, str]:
    notes = {"items_in": str(len(source))}
    described = corpus / "corpus.json"
    if described.is_file():
        digest = json.loads(described.read_text(encoding="utf-8")).get("ids_sha256")
        if isinstance(digest, str):
            notes["corpus_ids_sha256"] = digest
    return notes
