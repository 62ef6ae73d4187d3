"""A new bundle from a snapshot: added items built in, deleted ones forgotten, everything that hangs on them made anew.

Of a deleted item its vector, its look and its group stay, as a withheld row: it counts in the sum of shares, so that
nobody's share rises by what others take away. Its id, words, creator and addresses go. Erasing takes vector and look,
too; then what it would have withheld is shared out among the others.

The index keeps its training: codes are made again, cells and codebooks stay. Calibration carries over, since encoder
and kind of pictures stay; golden queries are asked again and recorded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from attributary.attribution.engine import Engine
from attributary.attribution.golden import golden_queries, make_golden
from attributary.attribution.snapshot import Snapshot
from attributary.bundle.bundle import ENCODER, ENCODER_INT8, INDEX, LOOKS, TOKENIZER, VECTORS, Bundle
from attributary.bundle.files import new_directory, save_array, sha256
from attributary.bundle.golden import GOLDEN
from attributary.bundle.items import CREATOR_IDS, ITEMS, SCHEMA, WITHHELD, ItemTable, select_columns
from attributary.bundle.manifest import IndexEntry, Manifest
from attributary.bundle.thumbnails import THUMBNAILS, write_thumbnails
from attributary.encoder.base import Encoder
from attributary.index.faiss_index import FaissIndex
from attributary.index.tuning import RECALL_AT, exact_neighbours, recall

from .journal.place import begin
from .journal.records import Opened

_BLOCK = 65_536
_PROBES = 1_000
# Between an item and a probe of it; what a cropped and recoloured copy is of its original, about.
_PROBE_COSINE = 0.8
HOW_MEASURED = f"{_PROBES} items with noise, cosine {_PROBE_COSINE} to the item"


def compacted(
    snapshot: Snapshot,
    encoder: Encoder,
    out: Path,
    opened: Callable[[Manifest], Opened],
    check: Callable[[], None] = lambda: None,
    erase: bool = False,
    looks: NDArray[np.int8] | None = None,
) -> Manifest:
    """Write a snapshot as a bundle of its own to `out`, which appears whole or not at all; return its manifest.

    `encoder` is the one that made the vectors, `opened` says with what the new bundle's journal begins. `check` is
    called now and then and may raise to give up. `erase` leaves nothing of deleted items. `looks`,
    int8 [N, *LOOK], is what the snapshot's rows look like, where that is known. Raises OSError, BundleError.
    """
    bundle = snapshot.bundle
    old = bundle.manifest
    alive = np.ones(len(bundle.items), bool) if snapshot.alive is None else snapshot.alive
    kept = alive.copy() if erase else np.ones(len(alive), bool)
    # What was deleted and added back is there once.
    kept[snapshot.replaced] = False
    rows = np.flatnonzero(kept)
    withheld = ~alive[rows]
    with new_directory(out, force=True) as scratch:
        for name in (ENCODER, TOKENIZER, ENCODER_INT8):
            if name in old.files:
                _link(bundle.directory / name, scratch / name)
        table = _table(bundle, rows, withheld)
        pq.write_table(table, scratch / ITEMS, compression="zstd")
        if bundle.thumbnails is not None:
            # Of a deleted item nothing is kept; what was added later, perhaps under its id, never had a picture here.
            split = len(bundle.vectors)
            ids = table.column("id").to_numpy()[~withheld & (rows < split)]
            write_thumbnails(bundle.thumbnails.only(ids), scratch / THUMBNAILS)
        vectors = _write_vectors(snapshot, rows, scratch / VECTORS, check)
        if looks is not None:
            # Also of what was deleted: asked with its picture, what it holds is withheld, and a copy of it is known.
            save_array(scratch / LOOKS, looks[rows])
        index = FaissIndex.read(bundle.index_path, old.index.nprobe)
        index.refill(vectors, check)
        index.write(scratch / INDEX)
        items = ItemTable(table)
        manifest = replace(
            old,
            index=_measured(old.index, index, vectors, (scratch / INDEX).stat().st_size),
            item_count=len(items),
            creator_count=len(np.unique(items.creator_of_row[~withheld])),
            withheld_count=int(withheld.sum()),
            files={},
            delta=True,
            notes={**old.notes, "compacted_from": old.bundle_id, "recall_measured_on": HOW_MEASURED},
        )
        check()
        engine = Engine(Bundle(bundle.directory, manifest, items, vectors, bundle.golden), encoder, index)
        make_golden(engine, golden_queries(bundle.golden, 1)).write(scratch / GOLDEN)
        manifest = replace(manifest, files={path.name: sha256(path) for path in sorted(scratch.iterdir())})
        manifest.write(scratch)
        begin(scratch, manifest, opened(manifest))
    return manifest


def _link(source: Path, target: Path) -> None:
    """The same file under another name where that can be; files of a bundle never change."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _table(bundle: Bundle, rows: NDArray[np.int64], withheld: NDArray[np.bool_]) -> pa.Table:
    """The rows as a bundle has them; of withheld ones only the group is told."""
    built = select_columns(pq.read_table(bundle.directory / ITEMS))
    split = len(built)
    added = [bundle.items.record(row).fields() for row in rows[rows >= split].tolist()]
    table = pa.concat_tables(
        [built.take(rows[rows < split]), pa.Table.from_pylist(added, schema=built.schema)]
    ).combine_chunks()
    if not withheld.any():
        return table
    mask = pa.array(withheld)
    for place, entry in enumerate(SCHEMA):
        if entry.name != "near_dup_group":
            nothing = pa.scalar(0 if entry.type == pa.int64() else "", entry.type)
            table = table.set_column(place, entry, pc.if_else(mask, nothing, table.column(place)))
    if CREATOR_IDS in table.column_names:
        # Who was deleted is not told by a number either.
        place, kind = table.column_names.index(CREATOR_IDS), table.schema.field(CREATOR_IDS)
        table = table.set_column(
            place, kind, pc.if_else(mask, pa.scalar(None, kind.type), table.column(place))
        )
    return table.append_column(pa.field(WITHHELD, pa.bool_(), nullable=False), mask)


def _write_vectors(
    snapshot: Snapshot, rows: NDArray[np.int64], path: Path, check: Callable[[], None]
) -> NDArray[np.float16]:
    header = {
        "descr": "<f2",
        "fortran_order": False,
        "shape": (len(rows), snapshot.bundle.manifest.encoder.dim),
    }
    # Written, not mapped: a full disk is an error here, and the end of the process there.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(rows), _BLOCK):
            check()
            file.write(snapshot.vectors_of(rows[start : start + _BLOCK]).data)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _measured(entry: IndexEntry, index: FaissIndex, vectors: NDArray[np.float16], size: int) -> IndexEntry:
    """The index's entry with the recall that it reaches on the new vectors."""
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(vectors), min(_PROBES, len(vectors)), replace=False))
    noise = rng.standard_normal((len(chosen), vectors.shape[1])).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    probes = _PROBE_COSINE * vectors[chosen].astype(np.float32) + (1 - _PROBE_COSINE**2) ** 0.5 * noise
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    candidates = min(entry.candidates, len(vectors))
    reached = recall(index.search(probes, candidates), exact_neighbours(vectors, probes, RECALL_AT))
    return replace(
        entry,
        recall_at_10=round(reached, 4),
        recall_queries=len(probes),
        bytes_per_item=round(size / len(vectors), 1),
    )
