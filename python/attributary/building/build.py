"""The builder: embed, index, tune, calibrate, record golden queries, and only then give the directory its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

from attributary.bundle.bundle import ENCODER, TOKENIZER
from attributary.bundle.items import ItemTable
from attributary.delta.journal.place import check_replaceable
from attributary.encoder.onnx import OnnxEncoder
from attributary.encoder.text import PromptTokenizer
from attributary.index.planning import IndexBudget
from attributary.index.tuning import build_index

from .assemble import BuildReport, Parts, at_least, require_encoder, write_bundle
from .calibrate import calibrate
from .embed import Progress, embed_items, make_probes
from .groups import grouped
from .source import Source, read_source
from .thumbnails import pictured_in


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
