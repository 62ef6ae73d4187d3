"""The log that is audited: Parquet rows of a query's id, its picture or latent, and its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from attributary_train.errors import AuditError
from attributary_train.files import reading

# The first of each that a file has; the second of the ids is what `attributary-train subject queries` writes.
_IDS = ("id", "generation_id", "name")
_PICTURES = ("image", "latent")


@dataclass(frozen=True)
class Logged:
    """One query: encoded picture or latent (float32 bytes, as the sampler left it), never both."""

    id: str
    prompt: str
    image: bytes | None
    latent: bytes | None


def read_log(path: Path, limit: int | None = None, ids: Sequence[str] = (), seed: int = 0) -> list[Logged]:
    """Read queries: those of `ids`, or `limit` at random, or all; in the log's order.

    Columns: id (or generation_id, or name), image (bytes) or latent (bytes), and prompt if there is one. Raises
    `AuditError` naming the column or the id that is missing, or an id that is there twice.
    """
    with reading(path, AuditError, "cannot be read"):
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        id_column = next((name for name in _IDS if name in names), None)
        picture = next((name for name in _PICTURES if name in names), None)
        if id_column is None or picture is None:
            raise AuditError(
                str(path),
                f"has columns {', '.join(names)}; needs {' or '.join(_IDS)}, and {' or '.join(_PICTURES)}",
            )
        known = [str(value) for value in file.read([id_column])[id_column].to_pylist()]
        rows = _chosen(path, known, limit, ids, seed)
        wanted = [name for name in (id_column, picture, "prompt") if name in names]
        table = file.read(wanted).take(rows)
    prompts = table["prompt"].to_pylist() if "prompt" in wanted else [""] * len(rows)
    found = []
    for row, (data, prompt) in zip(rows, zip(table[picture].to_pylist(), prompts, strict=True), strict=True):
        if data is not None and not isinstance(data, bytes):
            raise AuditError(str(path), f"column {picture} must hold bytes, holds {type(data).__name__}")
        of_image = picture == "image"
        found.append(Logged(known[row], prompt or "", data if of_image else None, None if of_image else data))
    return found


def _chosen(path: Path, known: Sequence[str], limit: int | None, ids: Sequence[str], seed: int) -> list[int]:
    place = {name: row for row, name in enumerate(known)}
    if len(place) != len(known):
        twice = next(name for row, name in enumerate(known) if place[name] != row)
        raise AuditError(str(path), f"holds the id {twice!r} twice; an audit has one row a query")
    if ids:
        missing = [name for name in ids if name not in place]
        if missing:
            raise AuditError("id", f"{missing[0]!r} is not in {path}")
        return sorted(place[name] for name in dict.fromkeys(ids))
    if limit is None or limit >= len(known):
        return list(range(len(known)))
    AuditError.if_below(1, limit=limit)
    return sorted(np.random.default_rng(seed).permutation(len(known))[:limit].tolist())
