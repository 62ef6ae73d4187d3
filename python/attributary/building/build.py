"""The builder: embed, index, tune, calibrate, record golden queries, and only then give the directory its name.

`write_bundle` has the last steps of every build. One of them says how near a picture is to the item that it would be
itself, where items have lengths (`own_cosine`): no query is nearer to any. Such an encoder makes an item of what an
embedding has apart from something that all pictures share (a part of the items' mean), so an embedding that is nothing
but that is nearer to an item than the item's own picture. What is shared is in no file. But it lies in the plane of
every picture's embedding and what the picture is as an item.
"""

from __future__ import annotations

import json
import os
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
from attributary.encoder.base import Encoder
from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer
from attributary.errors import BundleError, InvalidArgumentError
from attributary.index.planning import IndexBudget
from attributary.index.tuning import TunedIndex, build_index

from .calibrate import calibrate
from .embed import Probes, Progress, embed_items, encode, make_probes
from .groups import grouped
from .looks import pictured_in, shrunk
from .source import Source, read_source

PREPROCESSING = "pillow-13 bicubic, antialiased, short side; centre crop; uint8 RGB"
UNTUNED = SubjectEntry(id="none (untuned encoder)", weights_digest="")
_GOLDEN_QUERIES = 8
# How far what is shared may lie outside a plane; an encoder whose planes do not meet makes items in another way.
_MEET = 1e-2
# A picture that is as good as the item that it would be says nothing of what is shared.
_SAME = 0.999
_BATCH = 16
Doubles = NDArray[np.float64]


def build_bundle(
    corpus: Path,
    encoder_dir: Path,
    out: Path,
    *,
    budget: IndexBudget | None = None,
    version: str = "1",
    names_in_prompts: str = "",
    exclude_creators: tuple[str, ...] = (),
    limit: int | None = None,
    probes: int = 2_000,
    seed: int = 0,
    workers: int | None = None,
    thumbnails: tuple[str, ...] | None = None,
    force: bool = False,
    progress: Progress = lambda phase, done, total: None,
) -> BuildReport:
    """Build a bundle in `out` from a corpus directory and an exported encoder directory.

    `encoder_dir` holds encoder.onnx, tokenizer.json and possibly encoder.int8.onnx. `names_in_prompts` "read" lets
    creators' names in prompts move shares. `thumbnails`, if given, puts small pictures of the items in: of those under
    these licences, or of all if it is empty. The directory appears whole or not at all. Raises InvalidArgumentError
    naming what is wrong, FileExistsError if `out` exists and not `force`.
    """
    workers = workers or os.cpu_count() or 1
    check_replaceable(out, force)
    require_encoder(encoder_dir)
    source = read_source(corpus, exclude_creators, limit)
    encoder = OnnxEncoder(encoder_dir / ENCODER, threads=workers)
    tokenizer = PromptTokenizer.from_file(encoder_dir / TOKENIZER, encoder.spec.max_tokens)
    vectors, looks = embed_items(source, encoder, tokenizer, workers, progress)
    table = source.table if source.grouped else grouped(source.table, looks)
    # Tiny corpora still need enough probes to measure recall with; repeats of an item differ by their crop.
    probed = make_probes(source, encoder, tokenizer, probes, seed, workers, progress)
    progress("building the index", 0, 1)
    tuned = build_index(vectors, at_least(probed.embeddings, 20), budget or IndexBudget(), seed)
    progress("building the index", 1, 1)
    parts = Parts(
        encoder_dir=encoder_dir,
        encoder=encoder,
        table=table,
        vectors=vectors,
        tuned=tuned,
        calibration=calibrate(probed, vectors, ItemTable(table), tuned.index, tuned.candidates),
        probed=probed,
        version=version,
        names_in_prompts=names_in_prompts,
        notes=_notes(corpus, source),
        looks=looks,
        thumbnails={} if thumbnails is None else pictured_in(source, licences=thumbnails),
    )
    return write_bundle(parts, out, force)


def _notes(corpus: Path, source: Source) -> dict[str, str]:
    notes = {"items_in": str(len(source))}
    described = corpus / "corpus.json"
    if described.is_file():
        digest = json.loads(described.read_text(encoding="utf-8")).get("ids_sha256")
        if isinstance(digest, str):
            notes["corpus_ids_sha256"] = digest
    return notes


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


def own_cosine(
    encoder: Encoder, tokenizer: PromptTokenizer, probes: Probes, vectors: NDArray[np.float16]
) -> float:
    """The cosine of an item's own picture with the item's direction, the largest of all [N, D]; 0: not known."""
    if not encoder.spec.lengths:
        return 0.0
    prepared = list(zip(probes.pixels, probes.tokens, strict=True))
    parts = [
        encode(encoder.encode_items, tokenizer, prepared[at : at + _BATCH])
        for at in range(0, len(prepared), _BATCH)
    ]
    queries, items = probes.embeddings.astype(np.float64), _directions(np.concatenate(parts))
    apart = np.einsum("nd,nd->n", queries, items) < _SAME
    if int(apart.sum()) < 2:
        return 0.0
    shared = _shared(queries[apart], items[apart])
    if shared is None:
        return 0.0
    # An item is a query times a number less what is shared; by how much the query is the longer of the two.
    most = max(_longer(query, item, shared) for query, item in zip(queries[apart], items[apart], strict=True))
    if most == 0.0:
        return 0.0
    squares = 1.0 - (1.0 - np.square(_directions(vectors) @ shared)) / most**2
    return round(float(np.sqrt(max(squares.max(), 0.0))), 6)


def _shared(queries: Doubles, items: Doubles) -> Doubles | None:
    """The unit vector [D] in all planes of queries and items [n, D], None if there is none."""
    across = items - np.einsum("nd,nd->n", queries, items)[:, None] * queries
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    inside = queries.T @ queries + across.T @ across
    found = np.linalg.eigh(inside).eigenvectors[:, -1]
    outside = 1.0 - np.square(queries @ found) - np.square(across @ found)
    if float(outside.max()) > _MEET**2:
        return None
    # Items have less of it than queries.
    return found if float(((queries - items) @ found).mean()) > 0 else -found


def _longer(query: Doubles, item: Doubles, shared: Doubles) -> float:
    """n of item = t (n query - shared), in the plane of the three; 0 where no such n is."""
    found = np.linalg.lstsq(np.stack([query, -shared], axis=1), item, rcond=None)[0]
    return float(found[0] / found[1]) if found.min() > 1e-6 else 0.0


def _directions(items: NDArray[np.floating]) -> Doubles:
    """Unit vectors without what is in the last dimension."""
    apart = items.astype(np.float64)
    apart[:, -1] = 0.0
    unit: Doubles = apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-9)
    return unit
