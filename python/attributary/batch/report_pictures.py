"""Pictures for a report: generations from the log, found again and checked, and items from a corpus."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from attributary.encoder.image import decode
from attributary.errors import AttributaryError, RunError

from .inputs import InputFile, find_inputs
from .pictures import Access, picture_of
from .plan import open_reader
from .report_data import Example
from .rows import Shard
from .settings import Columns, RowLimits, Settings

# Item id to the picture's file, None if there is none.
ItemPicture = Callable[[int], Path | None]

_SIDE = 176


def generation_pictures(
    run: dict[str, Any],
    arguments: Sequence[Path],
    examples: Sequence[Example],
    image_roots: Sequence[str] = (),
) -> dict[tuple[int, int], str]:
    """Return {(shard, row): data URI} of the examples whose picture is still what was attributed.

    `arguments` are the inputs of the run; `run` is run.json. Raises RunError if they are other files than the run's.
    """
    settings = _settings(run, image_roots)
    files = {file.name: file for file in find_inputs(arguments, image_roots, settings.columns.image).files}
    missing = [entry["name"] for entry in run["inputs"] if entry["name"] not in files]
    if missing:
        raise RunError("inputs", f"the run had {missing[0]}, which is not among them")
    found = {}
    for number, (file, shard, rows) in _shards(run, files, settings).items():
        wanted = {example.row: example for example in examples if example.shard == number}
        if not wanted or rows == 0:
            continue
        for row, data in _read(file, shard, settings, set(wanted)).items():
            if hashlib.sha256(data).hexdigest() == wanted[row].values["image_sha256"]:
                found[number, row] = thumbnail(data)
    return found


def thumbnail(data: bytes) -> str:
    """Return a data URI of a JPEG of at most 176 px a side."""
    picture = Image.fromarray(decode(data))
    picture.thumbnail((_SIDE, _SIDE))
    out = BytesIO()
    picture.save(out, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def item_thumbnail(find: ItemPicture, item_id: int) -> str | None:
    """Return an item's data URI; None if it cannot be had: a report is not worth failing for it."""
    path = find(item_id)
    if path is None:
        return None
    try:
        return thumbnail(path.read_bytes())
    except (OSError, AttributaryError):
        return None


def _shards(
    run: dict[str, Any], files: dict[str, InputFile], settings: Settings
) -> dict[int, tuple[InputFile, Shard, int]]:
    found: dict[int, tuple[InputFile, Shard, int]] = {}
    size = settings.rows_per_shard
    for place, entry in enumerate(run["inputs"]):
        for start in range(0, entry["rows"], size):
            rows = min(size, entry["rows"] - start)
            shard = Shard(len(found), place, start, rows)
            found[shard.number] = (files[entry["name"]], shard, rows)
    return found


def _read(file: InputFile, shard: Shard, settings: Settings, rows: set[int]) -> dict[int, bytes]:
    """Encoded pictures of some rows of a shard."""
    reader = open_reader(file, settings)
    found: dict[int, bytes] = {}
    try:
        if file.kind in ("webdataset", "tfrecord"):
            # Where a shard begins in these is known only after a walk over its headers.
            for _ in reader.ids():
                pass
        at = Shard(shard.number, shard.file, shard.start, shard.rows, *reader.place(shard.start))
        row = 0
        for batch in reader.batches(at, settings.batch_size):
            for entry in batch.rows:
                if row in rows and entry.problem is None:
                    found[row] = picture_of(entry, settings.limits.max_image_bytes, settings.access)
                row += 1
    except AttributaryError:
        # The log has changed since: what was found is checked by its digest, the rest is not shown.
        return found
    finally:
        reader.close()
    return found


def _settings(run: dict[str, Any], image_roots: Sequence[str]) -> Settings:
    used = run["settings"]
    passed = used["pass_through"]
    return Settings(
        columns=Columns(**used["columns"]),
        pass_through=None if passed is None else tuple(passed),
        batch_size=used["batch_size"],
        rows_per_shard=used["rows_per_shard"],
        limits=RowLimits(**used["limits"]),
        access=Access(tuple(image_roots), tuple(used.get("access", {}).get("uris", ()))),
    )
