"""Which files of a Delta table are its rows now: replaced and deleted ones stay in the directory for weeks.

Source: the Delta Transaction Log Protocol, sections "Delta Log Entries" and "Checkpoints".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from attributary.errors import InputError

LOG = "_delta_log"
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\.\d+\.\d+)?\.parquet")


def live_files(table: Path, said: str) -> set[Path]:
    """Return the data files of a table's newest version; raises InputError for a log that cannot be followed."""
    try:
        live: set[Path] = set()
        for kind, action in _actions(table / LOG):
            path = table / unquote(action["path"])
            if kind == "remove":
                live.discard(path)
            elif action.get("deletionVector"):
                raise InputError(
                    said, "is a Delta table with deletion vectors; write it again without (REORG, PURGE)"
                )
            else:
                live.add(path)
        return live
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(said, f"its {LOG} cannot be read: {type(error).__name__}: {error}") from error


def _actions(log: Path) -> Iterator[tuple[str, Any]]:
    names = sorted(path.name for path in log.iterdir())
    last = max((int(found[1]) for name in names if (found := _CHECKPOINT.fullmatch(name))), default=-1)
    for name in names:
        if (found := _CHECKPOINT.fullmatch(name)) and int(found[1]) == last:
            for row in pq.read_table(log / name, columns=["add"], partitioning=None)["add"].to_pylist():
                if row:
                    yield "add", row
    for name in names:
        if (found := _COMMIT.fullmatch(name)) and int(found[1]) > last:
            for line in (log / name).read_text().splitlines():
                action = json.loads(line) if line.strip() else {}
                yield from ((kind, action[kind]) for kind in ("remove", "add") if action.get(kind))
