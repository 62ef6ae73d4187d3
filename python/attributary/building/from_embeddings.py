"""A bundle from embeddings that exist already: streamed, resumable, and held to the encoder that will answer."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from attributary.bundle.bundle import ENCODER, TOKENIZER, VECTORS
from attributary.bundle.files import write_whole
from attributary.bundle.items import ItemTable
from attributary.delta.journal.place import check_replaceable
from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer
from attributary.errors import InvalidArgumentError
from attributary.index.planning import IndexBudget
from attributary.index.tuning import build_index

from .build import BuildReport, Parts, at_least, require_encoder, write_bundle
from .calibrate import calibrate
from .embed import Progress, embed_items, make_probes
from .embeddings import Embeddings, open_embeddings
from .source import Source, items_table

# Names that the field's tools give to what a bundle calls caption, uri and file.
ALIASES = {"caption": ("text", "TEXT"), "uri": ("url", "URL"), "file": ("image_path",)}
# Embeddings made on another machine, in fp16, from a picture scaled by another library, still agree better than this.
SAME_ENCODER = 0.95
CHECKED = 64
LEAST_PICTURES = 20
_DONE = "done.json"


@dataclass(frozen=True, slots=True)
class SizePlan:
    """What a build will take, told before it begins."""

    items: int
    dim: int
    disk_bytes: int  # vectors twice (while building and in the bundle) and the index
    memory_bytes: int  # the index, its training sample, the items' table

    def __str__(self) -> str:
        return (
            f"{self.items:,} items of {self.dim} dimensions: about {self.disk_bytes / 1e9:.1f} GB on disk while it "
            f"builds, {self.memory_bytes / 1e9:.1f} GB of memory"
        )


def plan_size(found: Embeddings, budget: IndexBudget) -> SizePlan:
    """Bytes that a build of these embeddings will need, from its inputs' sizes."""
    vectors = found.rows * found.dim * 2
    codes = int(found.rows * min(budget.bytes_per_item, found.dim * 4 + 8))
    sample = min(found.rows, 500_000) * found.dim * 4
    # Arrow's text in memory is about four times what zstd leaves of it; ids, groups and codes take 60 bytes an item.
    text = 4 * sum(path.stat().st_size for path in found.tables if path not in found.vectors)
    return SizePlan(found.rows, found.dim, 2 * vectors + codes, codes + sample + text + 60 * found.rows)


def build_from_embeddings(
    embeddings: Path,
    encoder_dir: Path,
    pictures: Path,
    out: Path,
    *,
    items: Path | None = None,
    budget: IndexBudget | None = None,
    version: str = "1",
    names_in_prompts: str = "",
    probes: int = 500,
    seed: int = 0,
    workers: int = 1,
    force: bool = False,
    progress: Progress = lambda phase, done, total: None,
) -> BuildReport:
    """Build a bundle in `out` from vectors of `encoder_dir`'s encoder, read in one of `embeddings.py`'s layouts.

    `pictures` is where the items' `file` (or `image_path`) column leads; not all need be there. At least 20 are: some
    are embedded to see that encoder and vectors belong together, and changed copies of them measure the index and set
    first shares. A build that was stopped goes on where it was, from `<out>.partial`. Raises InvalidArgumentError
    naming what is wrong, FileExistsError if `out` exists and not `force`. `names_in_prompts` as in `build_bundle`.
    """
    check_replaceable(out, force)
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; choose another path or pass --force")
    require_encoder(encoder_dir)
    encoder = OnnxEncoder(encoder_dir / ENCODER, threads=workers)
    tokenizer = PromptTokenizer.from_file(encoder_dir / TOKENIZER, encoder.spec.max_tokens)
    found = open_embeddings(embeddings, items)
    if found.dim != encoder.spec.dim:
        raise InvalidArgumentError(
            "embeddings", f"vectors have {found.dim} dimensions, the encoder {encoder.spec.dim}"
        )
    described = named(found.table())
    table = items_table(described, embeddings)
    sample, rows = _sample(described, table, pictures, max(probes, CHECKED), seed)
    partial = out.with_name(out.name + ".partial")
    vectors = gather(found, partial / VECTORS, progress)
    with_caption = _belongs(sample, rows, vectors, encoder, tokenizer, workers)
    made = make_probes(sample, encoder, tokenizer, probes, seed, workers, progress)
    probed = replace(made, rows=rows[made.rows])
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
        notes={"items_in": str(found.rows), "vectors_with_caption": "yes" if with_caption else "no"},
    )
    report = write_bundle(parts, out, force)
    shutil.rmtree(partial)
    return report


def named(table: pa.Table) -> pa.Table:
    """Give columns the bundle's names where a tool has its own, and an id where there is none: the row's number."""
    for name, others in ALIASES.items():
        known = next((other for other in others if other in table.column_names), None)
        if name not in table.column_names and known:
            table = table.append_column(name, table[known])
    for name in ("caption", "file"):
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, _texts(table[name], name))
    if "id" not in table.column_names:
        table = table.append_column("id", pa.array(np.arange(len(table))))
    if "creator" not in table.column_names:
        raise InvalidArgumentError(
            "items",
            "there is no column creator: nobody could be named; add one, of text, empty where it is not known",
        )
    return table


def _texts(column: Any, name: str) -> Any:
    """A column as text, empty for null; raises InvalidArgumentError."""
    try:
        return pc.fill_null(column.cast(pa.string()), "")
    except pa.ArrowException:
        raise InvalidArgumentError("items", f"column {name} must be text, is {column.type}") from None


def gather(found: Embeddings, path: Path, progress: Progress) -> NDArray[np.float16]:
    """Write all vectors as one fp16 [N, D] file, mapped; what an earlier, stopped call has written is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = path.with_name(_DONE)
    state: dict[str, object] = {}
    if done.is_file() and path.is_file():
        state = json.loads(done.read_text(encoding="utf-8"))
    fingerprint = json.loads(json.dumps(found.fingerprint()))
    start = int(str(state.get("rows", 0))) if state.get("of") == fingerprint else 0
    mode = "r+" if start else "w+"
    vectors = open_memmap(path, mode=mode, dtype=np.float16, shape=(found.rows, found.dim))
    for block in found.blocks(start):
        vectors[start : start + len(block)] = block
        start += len(block)
        vectors.flush()
        write_whole(done, json.dumps({"of": fingerprint, "rows": start}).encode())
        progress("reading embeddings", start, found.rows)
    del vectors
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _sample(
    described: pa.Table, table: pa.Table, pictures: Path, count: int, seed: int
) -> tuple[Source, NDArray[np.int64]]:
    """Items at random whose pictures are there, and their rows."""
    if "file" not in described.column_names:
        raise InvalidArgumentError("items", "there is no column file (or image_path) that leads to pictures")
    files = described["file"]
    rows, paths = [], []
    for row in np.random.default_rng(seed).permutation(len(described)).tolist():
        name = files[row].as_py()
        if name and (pictures / name).is_file():
            rows.append(row)
            paths.append(pictures / name)
            if len(rows) == count:
                break
    if len(rows) < min(LEAST_PICTURES, len(described)):
        raise InvalidArgumentError(
            "pictures",
            f"{len(rows)} of the items' files are below {pictures}; at least {LEAST_PICTURES} are needed",
        )
    return Source(table.take(rows).combine_chunks(), paths), np.array(rows, np.int64)


def _belongs(
    sample: Source,
    rows: NDArray[np.int64],
    vectors: NDArray[np.float16],
    encoder: OnnxEncoder,
    tokenizer: PromptTokenizer,
    workers: int,
) -> bool:
    """Embed some pictures: whether the given vectors were made with captions. Refuses vectors of another encoder."""
    few = Source(sample.table.slice(0, CHECKED), sample.pictures[:CHECKED])
    given = vectors[rows[: len(few)]].astype(np.float32)
    blank = few.table.set_column(
        few.table.column_names.index("caption"), "caption", pa.array([""] * len(few))
    )
    reached = []
    for one in (few, Source(blank, few.pictures)):
        made = embed_items(one, encoder, tokenizer, workers, lambda *_: None)[0].astype(np.float32)
        reached.append(float(np.median((made * given).sum(axis=1))))
    if max(reached) < SAME_ENCODER:
        raise InvalidArgumentError(
            "embeddings",
            f"were not made by this encoder: over {len(few)} pictures the median cosine of given to its own vectors "
            f"is {reached[0]:.3f} with captions, {reached[1]:.3f} without; {SAME_ENCODER} is needed",
        )
    return reached[0] >= reached[1]
