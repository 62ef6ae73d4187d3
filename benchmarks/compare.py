"""Two results of one script as ratios: what became of each figure, after over before.

    python benchmarks/compare.py BEFORE.json AFTER.json [--json]

Rows are matched by what is no measurement in them: texts, counts, switches. Machines or settings that differ are told
first: a ratio between machines says nothing about the code. Exit status 2 where the files are of different scripts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[tuple[str, object], ...]


def rows_of(report: Mapping[str, Any]) -> Iterator[tuple[str, Key, dict[str, float]]]:
    """Of each row of each table: the table's name, what the row is about, and its figures."""
    results = report["results"]
    for title, rows in (results if isinstance(results, Mapping) else {"results": results}).items():
        for row in rows if isinstance(rows, list) else []:
            figures = {name: value for name, value in row.items() if isinstance(value, float)}
            about = {name: value for name, value in row.items() if name not in figures}
            yield title, tuple(sorted((name, json.dumps(value)) for name, value in about.items())), figures


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What makes the two no fair pair: a word for each."""
    told = []
    for part in ("machine", "config"):
        old, new = before[part], after[part]
        told += [
            f"{part}: {name} was {old.get(name)}, is {new.get(name)}"
            for name in dict.fromkeys([*old, *new])
            if old.get(name) != new.get(name)
        ]
    return told


def compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Row]:
    """A row a figure that both have and that is not 0 before: table, what it is about, both, and their ratio."""
    old = {(title, key): figures for title, key, figures in rows_of(before)}
    found = []
    for title, key, figures in rows_of(after):
        for name, value in figures.items():
            known = old.get((title, key), {}).get(name)
            if known:
                about = ", ".join(f"{part} {json.loads(str(what))}" for part, what in key)
                ratio = round(value / known, 3)
                found.append(
                    {
                        "table": title,
                        "about": about,
                        "figure": name,
                        "before": known,
                        "after": value,
                        "ratio": ratio,
                    }
                )
    return found


def main() -> int:
    """Compare two files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    before, after = (json.loads(path.read_text()) for path in (options.before, options.after))
    if before["script"] != after["script"]:
        print(f"compare: one is of {before['script']}, the other of {after['script']}", file=sys.stderr)
        return 2
    rows, apart = compared(before, after), differences(before, after)
    middle = {
        name: statistics.median(row["ratio"] for row in rows if row["figure"] == name)
        for name in dict.fromkeys(row["figure"] for row in rows)
    }
    commits = {"before": before["commit"], "after": after["commit"]}
    if options.json:
        print(json.dumps({"commits": commits, "differ": apart, "medians": middle, "ratios": rows}, indent=2))
        return 0
    print(f"{after['script']}: {commits['after']} over {commits['before']}")
    for word in apart:
        print(f"  differs, {word}")
    for row in rows:
        print(
            f"  {row['ratio']:7.3f}  {row['figure']}: {row['before']:.4g} -> {row['after']:.4g}  ({row['about']})"
        )
    for name, ratio in middle.items():
        print(f"  {ratio:7.3f}  {name}, median of all rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
