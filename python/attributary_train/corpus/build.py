"""From sources to a corpus directory: render in parallel, drop what cannot be used, group, write."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from attributary_train.corpus import near_dup, pins
from attributary_train.corpus.corpus import (
    FACTS_FILE,
    IMAGES_DIR,
    ITEMS_FILE,
    ORIGINALS_DIR,
    SCHEMA_VERSION,
    Corpus,
    image_path,
    original_path,
)
from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.item import Item, ids_digest, item_id, to_table
from attributary_train.corpus.names import ConceptNames, read_json
from attributary_train.corpus.opt_out.reading import Reader
from attributary_train.corpus.opt_out.signal import SIGNALS_FILE
from attributary_train.corpus.own import VERSION as OWN_VERSION
from attributary_train.corpus.own import render_own
from attributary_train.corpus.raster import (
    IMAGE_SIZE,
    RASTER_VERSION,
    Rendered,
    cached_png,
    render_cached,
    write_atomically,
)
from attributary_train.corpus.sources.base import Drawing, Source, SourceReport
from attributary_train.corpus.sources.registry import sources_named
from attributary_train.errors import CorpusError, FetchError

# Drawings in flight: enough to keep the workers busy, few enough that a large archive is never held in memory.
_WINDOW = 256
_LISTED_PROBLEMS = 1000


@dataclass(slots=True)
class _Built:
    items: list[Item]
    embeddings: list[NDArray[np.float16]]
    seen: dict[int, str]  # id -> key
    opt_outs: Reader


def build(
    out: Path,
    sources: Sequence[Source] | None = None,
    *,
    cache: Path,
    limit: int | None = None,
    only: Collection[int] | None = None,
    workers: int = 2,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Corpus:
    """Build the corpus of `sources` (the default ones if None) into the directory `out`, and open it.

    At most `limit` drawings are taken from each source, and of those the ones whose ids are in `only`. `say` is told
    of packages that cannot be fetched; the rest goes on. Raises `CorpusError` for a bad option, a directory that holds
    something else, two items with one id, or when nothing at all is left. Killed and started again, it renders only
    what is missing.
    """
    if limit is not None and limit < 1:
        raise CorpusError("limit", f"must be at least 1, not {limit}")
    if workers < 1:
        raise CorpusError("workers", f"must be at least 1, not {workers}")
    sources = sources_named(()) if sources is None else sources
    _refuse_foreign_directory(out)
    packages = PackageCache(cache)
    names = _concept_names(packages) if any(source.uses_names for source in sources) else ConceptNames()
    built = _Built([], [], {}, Reader(out / SIGNALS_FILE))
    only = None if only is None else frozenset(only)
    entries = []
    for source in sources:
        report = SourceReport()
        before = len(built.items)
        try:
            drawings: Iterable[Drawing] = islice(source.drawings(packages, names, report), limit)
            if only is not None:
                drawings = (drawing for drawing in drawings if item_id(drawing.key) in only)
            _take(drawings, out, packages.rasters, workers, progress, source.name, report, built)
        except FetchError as error:
            report.problem(error.package, error.reason)
            say(str(error))
        entries.append(_entry(source.name, report, built.items[before:]))
    if not built.items:
        reasons = "; ".join(
            f"{problem['where']}: {problem['reason']}" for e in entries for problem in e["problems"][:3]
        )
        raise CorpusError(
            "sources", f"no usable image in {', '.join(s.name for s in sources)}. {reasons}".strip()
        )
    _write(out, built, entries, limit)
    return Corpus.open(out)


def _refuse_foreign_directory(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise CorpusError(str(out), "is a file; name a directory")
    if out.exists() and any(out.iterdir()) and not (out / IMAGES_DIR).is_dir():
        raise CorpusError(str(out), "holds something that is not a corpus; name an empty or a new directory")


def _concept_names(packages: PackageCache) -> ConceptNames:
    """Learn emoji names whatever sources are chosen, so that a concept has the same id in every corpus."""
    names = ConceptNames()
    try:
        names.add_openmoji(read_json(packages.npm(pins.OPENMOJI) / "data" / "openmoji.json"))
        noto = packages.npm(pins.NOTO)
        names.add_iconify(read_json(noto / "chars.json"), read_json(noto / "icons.json").get("aliases", {}))
    except FetchError:
        # The sources themselves say so; concepts then join by name alone.
        pass
    return names


def _take(
    drawings: Iterable[Drawing],
    out: Path,
    rasters: Path,
    workers: int,
    progress: bool,
    title: str,
    report: SourceReport,
    built: _Built,
) -> None:
    for drawing, rendered in tqdm(
        _rendered(drawings, rasters, workers), title, unit="image", disable=not progress
    ):
        number = item_id(drawing.key)
        if number in built.seen:
            other = built.seen[number]
            raise CorpusError(
                "key", f"{drawing.key!r} has the id {number} of {other!r}; keys must be distinct"
            )
        built.seen[number] = drawing.key
        if rendered.problem == "blank" and not drawing.own:
            report.skipped["blank"] += 1
        elif rendered.problem:
            report.problem(drawing.uri, rendered.problem)
        else:
            _place(cached_png(rasters, rendered.digest), image_path(out, number))
            file = _keep(drawing, rendered, out, number) if drawing.own else image_path(out, number)
            if drawing.own:
                built.opt_outs.read(number, drawing.uri, drawing.payload, drawing.folder)
            built.items.append(_item(drawing, number, rendered, file.relative_to(out).as_posix()))
            built.embeddings.append(rendered.embedding)


def _rendered(drawings: Iterable[Drawing], rasters: Path, workers: int) -> Iterator[tuple[Drawing, Rendered]]:
    """Render in order, with a bounded number of drawings under way."""
    work = partial(_render, cache=rasters)
    if workers == 1:
        for drawing in drawings:
            yield drawing, work(drawing.payload, drawing.svg, drawing.own)
        return
    # Spawned workers inherit no threads or locks of a caller that has used BLAS or torch.
    context = multiprocessing.get_context("spawn")
    waiting: deque[tuple[Drawing, Future[Rendered]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            for drawing in drawings:
                waiting.append((drawing, pool.submit(work, drawing.payload, drawing.svg, drawing.own)))
                if len(waiting) >= _WINDOW:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise CorpusError(
                "workers",
                "a rendering process was killed, perhaps for want of memory; try again with one worker",
            ) from error


def _render(payload: bytes | Path, svg: bool, own: bool, cache: Path) -> Rendered:
    return render_own(payload, cache) if own else render_cached(payload, svg, cache)


def _keep(drawing: Drawing, rendered: Rendered, out: Path, number: int) -> Path:
    """Copy a picture of the user's own into the corpus, which then outlives the folder that it came from."""
    suffix = ".png" if rendered.kept else PurePosixPath(drawing.uri).suffix
    path = original_path(out, number, suffix)
    payload = rendered.kept or drawing.payload
    write_atomically(path, payload if isinstance(payload, bytes) else payload.read_bytes())
    return path


def _end_with_parent() -> None:
    """Let a worker die with the build: one whose parent was killed would wait for work for ever."""
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        # Another file system, or one without links.
        shutil.copyfile(source, part)
    part.replace(target)
    # Renaming onto another link of the same file leaves both names.
    part.unlink(missing_ok=True)


def _item(drawing: Drawing, number: int, rendered: Rendered, file: str) -> Item:
    return Item(
        id=number,
        key=drawing.key,
        uri=drawing.uri,
        caption=drawing.caption,
        keywords=drawing.keywords,
        concept_id=drawing.concept_id,
        creator=drawing.creator,
        creator_url=drawing.creator_url,
        style_set=drawing.style_set,
        family=drawing.family,
        licence_spdx=drawing.licence_spdx,
        licence_url=drawing.licence_url,
        sha256=rendered.sha256,
        near_dup_group=-1,
        file=file,
        creator_ids=drawing.creator_ids,
    )


def _entry(name: str, report: SourceReport, items: list[Item]) -> dict[str, Any]:
    return {
        "name": name,
        "packages": report.packages,
        "items": len(items),
        "creators": len({item.creator for item in items}),
        "skipped": dict(sorted(report.skipped.items())),
        "notes": report.notes,
        "problem_count": len(report.problems),
        "problems": report.problems[:_LISTED_PROBLEMS],
    }


def _write(out: Path, built: _Built, entries: list[dict[str, Any]], limit: int | None) -> None:
    thresholds = near_dup.Thresholds()
    codes = {creator: code for code, creator in enumerate(sorted({item.creator for item in built.items}))}
    creators = np.array([codes[item.creator] for item in built.items], dtype=np.int64)
    groups = near_dup.group(np.stack(built.embeddings), creators, thresholds)
    items = [
        replace(item, near_dup_group=int(label))
        for item, label in zip(built.items, groups.labels, strict=True)
    ]
    sizes = np.bincount(groups.labels)
    signals, opt_outs = built.opt_outs.result()
    facts = {
        "schema_version": SCHEMA_VERSION,
        "image": {
            "size": IMAGE_SIZE,
            "mode": "RGB",
            "background": "white",
            "raster_version": RASTER_VERSION,
            "own_pictures": OWN_VERSION,
        },
        "ids_sha256": ids_digest(item.id for item in items),
        "limit": limit,
        "counts": {
            "items": len(items),
            "creators": len(codes),
            "concepts": len({item.concept_id for item in items}),
            "concepts_shared": shared_concepts(items),
            "distinct_images": len({item.sha256 for item in items}),
        },
        "near_dup": {
            "embedding": near_dup.EMBEDDING,
            "thresholds": asdict(thresholds),
            "pairs": groups.pairs,
            "groups_shared": groups.shared,
            "items_grouped": int(sizes[sizes > 1].sum()),
            "largest": int(sizes.max()),
        },
        "opt_out": opt_outs,
        "sources": entries,
    }
    stream = io.BytesIO()
    pq.write_table(to_table(items), stream)
    _remove_strangers(out, items)
    write_atomically(out / ITEMS_FILE, stream.getvalue())
    if len(signals):
        stream = io.BytesIO()
        pq.write_table(signals, stream)
        write_atomically(out / SIGNALS_FILE, stream.getvalue())
    write_atomically(out / FACTS_FILE, (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode())


def shared_concepts(items: Iterable[Item]) -> int:
    """Count the concepts that at least two creators have drawn."""
    pairs = {(item.concept_id, item.creator) for item in items}
    return sum(count > 1 for count in Counter(concept for concept, _ in pairs).values())


def _remove_strangers(out: Path, items: list[Item]) -> None:
    """Remove pictures of an earlier build that are no items any more."""
    kept = {image_path(out, item.id) for item in items} | {out / item.file for item in items}
    for directory in (IMAGES_DIR, ORIGINALS_DIR):
        for path in (out / directory).glob("*/*"):
            if path not in kept:
                path.unlink()
