"""What every benchmark shares: facts about the machine, the commit, aims, and one way of telling results.

A script measures, then calls `emit(script, config, results, aims, json_flag)` once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


class Aim(TypedDict):
    """One figure that was asked for, met or not."""

    name: str
    value: float | None
    aim: float
    unit: str
    met: bool
    note: str


def machine() -> dict[str, Any]:
    """Describe the machine: CPU model, cores, memory in GiB, system, Python, GPU (or None)."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": _gpu(),
    }


def commit() -> str:
    """Return the short commit hash, "+changes" appended where tracked files differ; "unknown" outside git."""
    try:
        head = _run("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
        changed = _run(
            "git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no",
            "--", "python", "kernels", "proto", "benchmarks/*.py",
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def aim(name: str, value: float | None, aim: float, unit: str, met: bool, note: str = "") -> Aim:
    """Record one figure beside what was asked for; `value` is None where it could not be measured here."""
    rounded = None if value is None else float(f"{value:.4g}")
    return Aim(name=name, value=rounded, aim=aim, unit=unit, met=bool(met), note=note)


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the two switches that every benchmark has: --json and --save."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--save", action="store_true", help="also write a file under benchmarks/results/")
    return parser


def emit(
    script: str,
    config: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]] | Mapping[str, Any],
    aims: Sequence[Aim],
    json_flag: bool,
    save: bool | None = None,
) -> dict[str, Any]:
    """Print the report as JSON or as a readable table, save it where asked, and return it.

    `results` is a list of flat rows (one a table line), or a mapping of table names to such lists. `save`
    defaults to whether --save is on the command line.
    """
    report = {
        "script": script,
        "machine": machine(),
        "commit": commit(),
        "config": dict(config),
        "results": results,
        "aims": list(aims),
    }
    if json_flag:
        print(json.dumps(report, indent=2, default=_plain))
    else:
        _print_readable(report)
    if save is None:
        save = "--save" in sys.argv[1:]
    if save:
        path = RESULTS / f"{script}-{machine_slug()}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2, default=_plain) + "\n")
    return report


def machine_slug(facts: Mapping[str, Any] | None = None) -> str:
    """Return a short file-name part for a machine as `machine` describes it, by default this one: CPU, cores, GPU."""
    facts = facts or machine()
    gpu = f"-{facts['gpu']}" if facts["gpu"] else ""
    text = f"{facts['cpu']}-{facts['cores']}c{gpu}".lower()
    return re.sub(r"-+", "-", re.sub(r"[^a-z0-9]+", "-", text)).strip("-")


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int = 30,
    warmup: int = 3,
    before: Callable[[], Any] | None = None,
    settle: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time every call once a round, so that a noisy neighbour touches all alike; return median seconds.

    `before` runs untimed ahead of every call (to draw new input, for instance). `settle` is how many untimed calls
    go ahead of the timed one, so that a call is not charged for what its rivals pushed out of the caches. `clock`
    is wall time; `time.thread_time` leaves out what other processes took, for calls that stay on one thread.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + rounds):
        for name, call in calls.items():
            for _ in range(settle):
                if before is not None:
                    before()
                call()
            if before is not None:
                before()
            start = clock()
            call()
            elapsed = clock() - start
            if turn >= warmup:
                samples[name].append(elapsed)
    return {name: statistics.median(times) for name, times in samples.items()}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        names = _run("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    except (OSError, subprocess.CalledProcessError):
        return None
    return names.splitlines()[0].strip() if names else None


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _plain(value: object) -> object:
    """Turn NumPy scalars and arrays, and paths, into what json can write."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def _print_readable(report: Mapping[str, Any]) -> None:
    facts = report["machine"]
    gpu = facts["gpu"] or "no GPU"
    print(f"{report['script']}  commit {report['commit']}")
    print(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {gpu}, Python {facts['python']}"
    )
    for key, value in report["config"].items():
        print(f"  {key}: {value}")
    results = report["results"]
    tables = results if isinstance(results, Mapping) else {"results": results}
    for title, rows in tables.items():
        print(f"\n{title}")
        _print_table(rows)
    if report["aims"]:
        print("\naims")
    for item in report["aims"]:
        mark = "met" if item["met"] else "NOT MET"
        note = f"  ({item['note']})" if item["note"] else ""
        value = "not measured" if item["value"] is None else f"{item['value']} {item['unit']}"
        print(f"  {mark:8s} {item['name']}: {value}, aim {item['aim']} {item['unit']}{note}")


def _print_table(rows: object) -> None:
    if isinstance(rows, Mapping):
        rows = [{"name": key, "value": value} for key, value in rows.items()]
    if (
        not isinstance(rows, Sequence)
        or isinstance(rows, str)
        or not all(isinstance(r, Mapping) for r in rows)
    ):
        print(f"  {rows}")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max([len(c), *(len(line[i]) for line in cells)]) for i, c in enumerate(columns)]
    for line in [columns, *cells]:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
