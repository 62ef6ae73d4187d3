"""An audit that can be stopped: a line a query as it is done, a table and a summary at the end.

<folder>/audit.json      what was asked: bundle, model, log, settings
<folder>/rows.jsonl      one line a query, flushed to disk before the next begins
<folder>/audit.parquet   the same as a table, without the items
<folder>/summary.json    agreement, cost, drift
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attributary_train.audit.log import Logged
from attributary_train.errors import AuditError
from attributary_train.files import write_text

Row = dict[str, Any]
REQUEST, ROWS, TABLE, SUMMARY = "audit.json", "rows.jsonl", "audit.parquet", "summary.json"
_FIELDS: list[pa.Field[Any]] = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("rank_correlation", pa.float64()),
    pa.field("overlap_at_10", pa.float64()),
    pa.field("share_difference", pa.float64()),
    pa.field("diffuse", pa.float64()),
    pa.field("teacher_diffuse", pa.float64()),
    pa.field("out_of_distribution", pa.bool_()),
    pa.field("unknown_to_teacher", pa.int32()),
    pa.field("seconds", pa.float64()),
    pa.field("cpu_seconds", pa.float64()),
]
SCHEMA = pa.schema(_FIELDS)


def begin(folder: Path, request: Mapping[str, Any]) -> None:
    """Start an audit or go on with one; raises `AuditError` if the folder's audit was another."""
    path = folder / REQUEST
    try:
        if path.exists():
            found = json.loads(path.read_text())
            for name, value in json.loads(json.dumps(request)).items():
                if found.get(name) != value:
                    raise AuditError(
                        str(path), f"was begun with another {name}; choose another folder or remove this one"
                    )
            return
        write_text(path, json.dumps(request, indent=2) + "\n", AuditError)
    except (OSError, ValueError) as error:
        raise AuditError(str(path), f"cannot be used: {error}") from error


def done(folder: Path) -> dict[str, Row]:
    """Rows that are finished, by query id. A last line that was cut off by a kill is dropped from the file."""
    path = folder / ROWS
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as stream:
            stream.truncate(len(whole))
    try:
        rows = [json.loads(line) for line in whole.splitlines()]
        return {str(row["id"]): row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise AuditError(str(path), f"is damaged: {error!r}; remove it and start again") from error


def work(
    folder: Path, queries: Sequence[Logged], ask: Callable[[Logged], Row], say: Callable[[str], None]
) -> list[Row]:
    """Ask about every query that has no row yet; returns all rows in the queries' order."""
    rows = done(folder)
    todo = [query for query in queries if query.id not in rows]
    try:
        with (folder / ROWS).open("ab") as stream:
            for number, query in enumerate(todo):
                row = ask(query)
                stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
                rows[query.id] = row
                say(f"{number + 1} of {len(todo)}: {query.id} {row['error'] or ''} {row['seconds']:.1f} s")
        ordered = [rows[query.id] for query in queries]
        table = [{name: row.get(name) for name in SCHEMA.names} for row in ordered]
        part = folder / f".{TABLE}.part"
        pq.write_table(pa.Table.from_pylist(table, schema=SCHEMA), part)
        part.replace(folder / TABLE)
    except OSError as error:
        raise AuditError(str(folder), f"cannot be written: {error}; start again to go on") from error
    return ordered
