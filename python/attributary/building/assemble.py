"""The last steps of every build: files in a scratch directory, golden queries asked and recorded, hashes, the name."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.attribution.engine import Engine
from attributary.attribution.golden import MIN_COSINE, golden_queries, make_golden
from attributary.attribution.types import Filter, Prepared
from attributary.bundle.bundle import ENCODER, ENCODER_INT8, INDEX, LOOKS, TOKENIZER, VECTORS, Bundle
from attributary.bundle.files import new_directory, save_array, sha256
from attributary.bundle.golden import GOLDEN, Golden
from attributary.bundle.items import ITEMS, ItemTable
from attributary.bundle.manifest import (
    CROP,
    INT8_LEFT_OUT,
    SCHEMA_VERSION,
    Calibration,
    EncoderEntry,
    IndexEntry,
    Manifest,
    SubjectEntry,
)
from attributary.bundle.thumbnails import THUMBNAILS, write_thumbnails
from attributary.delta.journal.place import begin, check_replaceable
from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer
from attributary.errors import BundleError, InvalidArgumentError
from attributary.index.tuning import TunedIndex

from .embed import Probes
from .own_cosine import own_cosine
from .thumbnails import shrunk

PREPROCESSING = "pillow-13 bicubic, antialiased, short side; centre crop; uint8 RGB"
UNTUNED = SubjectEntry(id="none (untuned encoder)", weights_digest="")
_GOLDEN_QUERIES = 8


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was built and what it reached."""

    directory: Path
    manifest: Manifest
    target_recall_met: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """What a bundle is made of. `table` has the columns of items.parquet, a row for each row of `vectors`."""

    encoder_dir: Path
    encoder: OnnxEncoder
    table: pa.Table
    vectors: NDArray[np.float16]  # [N, D], unit rows
    tuned: TunedIndex
    calibration: Calibration
    probed: Probes  # golden queries are chosen from these
    version: str
    notes: Mapping[str, str]
    names_in_prompts: str  # as in the manifest
    # Of an encoder that knows no generator, whose vectors are of the items' pictures.
    student: str = "untuned"
    subject: SubjectEntry = UNTUNED
    vectors_made_by: Literal["encoder", "trained"] = "encoder"
    looks: NDArray[np.int8] | None = None  # [N, *LOOK]; None where no picture was read
    thumbnails: dict[int, Path] = field(default_factory=dict)  # pictures to show, by item id


def require_encoder(directory: Path) -> None:
    """Raise InvalidArgumentError if a directory is no exported encoder."""
    for name in (ENCODER, TOKENIZER):
        if not (directory / name).is_file():
            raise InvalidArgumentError(
                "encoder", f"{directory / name} does not exist; export the encoder first"
            )


def write_bundle(parts: Parts, out: Path, force: bool) -> BuildReport:
    """Write a bundle to `out`, which appears whole or not at all. Raises FileExistsError, PreconditionError."""
    check_replaceable(out, force)
    with new_directory(out, force) as scratch:
        _copy_encoder(parts.encoder_dir, scratch)
        parts.tuned.index.write(scratch / INDEX)
        save_array(scratch / VECTORS, parts.vectors)
        if parts.looks is not None:
            save_array(scratch / LOOKS, parts.looks)
        pq.write_table(parts.table, scratch / ITEMS, compression="zstd")
        if parts.thumbnails:
            write_thumbnails(shrunk(parts.thumbnails), scratch / THUMBNAILS)
        items = ItemTable(parts.table)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            version=parts.version,
            subject=parts.subject,
            student=parts.student,
            encoder=EncoderEntry(
                preprocessing=PREPROCESSING,
                fit=CROP,
                own_cosine=_own_cosine(parts),
                **asdict(parts.encoder.spec),
            ),
            index=_index_entry(parts.tuned, parts.encoder.spec.digest, parts.vectors),
            calibration=parts.calibration,
            item_count=len(items),
            creator_count=len(items.creator_names),
            files={},
            notes=dict(parts.notes),
            vectors_made_by=parts.vectors_made_by,
            names_in_prompts=parts.names_in_prompts,
            delta=True,
        )
        engine = Engine(
            Bundle(scratch, manifest, items, parts.vectors, _no_golden()), parts.encoder, parts.tuned.index
        )
        golden = _record_golden(engine, parts)
        golden.write(scratch / GOLDEN)
        if problem := _int8_problem(scratch / ENCODER_INT8, engine, golden):
            (scratch / ENCODER_INT8).unlink()
            manifest = replace(manifest, notes={**manifest.notes, INT8_LEFT_OUT: problem})
        manifest = replace(manifest, files={path.name: sha256(path) for path in sorted(scratch.iterdir())})
        manifest.write(scratch)
        begin(scratch, manifest)
    return BuildReport(out, manifest, parts.tuned.met)


def at_least(queries: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Queries [Q, D], repeated until there are `count`: a tiny corpus has fewer than recall is measured on."""
    return np.resize(queries, (max(count, len(queries)), queries.shape[1]))


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


def _own_cosine(parts: Parts) -> float:
    tokenizer = PromptTokenizer.from_file(parts.encoder_dir / TOKENIZER, parts.encoder.spec.max_tokens)
    return own_cosine(parts.encoder, tokenizer, parts.probed, parts.vectors)


def _no_golden() -> Golden:
    nothing = np.zeros(0)
    return Golden(*(nothing for _ in range(8)))  # type: ignore[arg-type]  # nothing is recorded yet


def _int8_problem(path: Path, engine: Engine, golden: Golden) -> str:
    """Why no server would open the int8 encoder of this bundle; empty if it would, or if there is none."""
    if not path.is_file():
        return ""
    wanted = MIN_COSINE["int8"]
    try:
        encoder = OnnxEncoder(path)
    except BundleError as error:
        return error.message
    if encoder.vectors_of != engine.encoder.spec.digest:
        return f"it is a variant of encoder {encoder.vectors_of[:12]}..., not of the one beside it"
    asked = Engine(engine.bundle, encoder, engine.index).embed(golden_queries(golden, 1))
    cosine = float((asked * golden.embeddings).sum(axis=1).min())
    if not cosine >= wanted:
        return f"on the golden queries its cosine to fp32 is {cosine:.3f}, at least {wanted} is needed"
    return ""


def _record_golden(engine: Engine, parts: Parts) -> Golden:
    probed = parts.probed
    chosen = np.unique(np.linspace(0, len(probed.rows) - 1, _GOLDEN_QUERIES).round().astype(int))
    queries = [
        Prepared(
            top_k=1,
            top_creators=0,
            filter=Filter(),
            has_prompt=probed.tokens[place].size > 0,
            pixels=probed.pixels[place],
            tokens=probed.tokens[place],
        )
        for place in chosen.tolist()
    ]
    return make_golden(engine, queries)
