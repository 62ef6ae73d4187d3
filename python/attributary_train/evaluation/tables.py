"""Reports as every evaluation prints them: machine, commit, config, results, aims; as JSON or for a reader."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attributary_train.evaluation.agreement import Agreement
from attributary_train.evaluation.gap import best_features, gap_closed
from attributary_train.evaluation.lds import Ceiling, LdsResult, difference
from attributary_train.evaluation.leave_k_out import OTHER_SEEDS, LeaveKOut
from attributary_train.evaluation.stats import Interval
from attributary_train.subject.recipe import ADOPTED

# Methods that look at pictures and captions only; a teacher that cannot beat them explains nothing.
BASELINES = ("random", "pixels", "image", "text", "joined")
Row = dict[str, Any]


def machine() -> Row:
    """Describe the machine: CPU model, cores, memory in GiB, system, Python, GPU or None."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def commit() -> str:
    """Short commit of the checkout, "+changes" appended where tracked code differs, "unknown" outside one."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", str(here.parent))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def aim(name: str, value: float, wanted: float, unit: str, met: bool, note: str = "") -> Row:
    """One figure beside what was asked for, met or not."""
    return {"name": name, "value": _short(value), "aim": wanted, "unit": unit, "met": bool(met), "note": note}


def report(
    script: str, config: Mapping[str, Any], results: Mapping[str, Any], aims: Sequence[Row], subject: str = ""
) -> Row:
    """The object that --json prints. `subject`: name of the recipe of the model that it is about; aims are this
    house's, about its own models: of an adopted one none is told."""
    return {
        "script": script,
        "machine": machine(),
        "commit": commit(),
        "config": dict(config),
        "results": dict(results),
        "aims": [] if subject == ADOPTED else list(aims),
    }


def interval_row(interval: Interval) -> Row:
    """Value and ends of an interval."""
    return {"value": _short(interval.value), "low": _short(interval.low), "high": _short(interval.high)}


def ends_row(name: str, interval: Interval) -> Row:
    """As `interval_row`, where a row has several intervals: `name`, `name`_low, `name`_high."""
    found = interval_row(interval)
    return {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def lds_tables(results: Mapping[str, LdsResult], ceiling: Ceiling | None, best: str | None) -> Row:
    """Tables of an LDS run: methods, best first; differences of the method `best` against the others; the ceiling."""
    order = sorted(results, key=lambda name: -results[name].rows.mean())
    methods = []
    for name in order:
        found = results[name]
        row = {"method": name, "lds": _short(found.by_both.value)}
        for title, interval in (
            ("both", found.by_both),
            ("queries", found.by_queries),
            ("subsets", found.by_subsets),
        ):
            row |= {f"{title}_low": _short(interval.low), f"{title}_high": _short(interval.high)}
        methods.append(row)
    tables: Row = {"methods": methods}
    if best is not None:
        tables["differences"] = [
            {"method": best, "minus": other, **interval_row(difference(results[best], results[other]))}
            for other in order
            if other != best
        ]
    if ceiling is not None:
        tables["ceiling"] = [
            {"what": "Spearman of two seeds, same subsets", **interval_row(ceiling.agreement)},
            {"what": "reachable by a perfect prediction", "value": _short(ceiling.reachable)},
        ]
    return tables


def lds_aims(results: Mapping[str, LdsResult], best: str | None, queries: int, subsets: int) -> list[Row]:
    """Aims of the LDS table."""
    aims = [
        aim("LDS: half-subset retrains", subsets, 32, "runs", subsets >= 32),
        aim("LDS: test queries", queries, 50, "queries", queries >= 50),
    ]
    if best is not None:
        for other in BASELINES:
            if other in results and other != best:
                found = difference(results[best], results[other])
                aims.append(_clear(f"LDS: {best} above {other}", found, "LDS"))
    return aims


def removal_tables(found: LeaveKOut, best: str | None) -> Row:
    """Tables of one K: each method's dL, pixel MSE and feature similarity; paired differences of `best`; noise."""
    order = sorted(found.removals, key=lambda name: -found.removals[name].loss.mean())
    methods = []
    for name in order:
        row: Row = {"removed": name, "K": found.count}
        for measure, interval in found.removals[name].intervals().items():
            row |= ends_row(measure, interval)
        methods.append(row)
    tables: Row = {"methods": methods}
    if best is not None:
        tables["differences"] = [
            {"removed": best, "minus": other, "measure": measure, **interval_row(interval)}
            for other in order
            if other != best
            for measure, interval in found.removals[best].minus(found.removals[other]).items()
        ]
        tables["differences of dL"] = [
            {
                "removed": one,
                "minus": other,
                **interval_row(found.removals[one].minus(found.removals[other])["loss"]),
            }
            for at, one in enumerate(order)
            for other in order[at + 1 :]
        ]
        tables["gap"] = _gap_rows(found, best)
    tables["queries"] = [
        {"query": at, **{name: _short(float(found.removals[name].loss[at])) for name in order}}
        for at in range(len(found.removals[order[0]].loss))
    ]
    tables["noise"] = [
        *(
            {"what": f"deviation of dL over runs: {name}", "value": _short(x)}
            for name, x in found.spread.items()
        ),
        {"what": "standard error of the loss grid in one dL", "value": _short(found.grid_error)},
    ]
    return tables


def removal_aims(found: LeaveKOut, best: str | None) -> list[Row]:
    """Aims of the leave-K-out table of one K."""
    queries = len(next(iter(found.removals.values())).loss)
    aims = [aim(f"leave-{found.count}-out: test queries", queries, 10, "queries", queries >= 10)]
    if best is not None:
        for other in BASELINES:
            if other in found.removals and other != best:
                interval = found.removals[best].minus(found.removals[other])["loss"]
                aims.append(_clear(f"leave-{found.count}-out: dL of {best} above {other}", interval, "loss"))
    return aims


def _gap_rows(found: LeaveKOut, best: str) -> list[Row]:
    """What part of the way from the best features to `best` every other method covers, on dL."""
    features = best_features(found.removals, BASELINES[1:])
    if features is None or not found.removals[best].loss.mean() > found.removals[features].loss.mean():
        return []
    known = {best, features, *BASELINES, OTHER_SEEDS}
    return [
        {
            "method": name,
            "from": features,
            "to": best,
            **interval_row(gap_closed(found.removals[best], found.removals[features], removal)),
        }
        for name, removal in found.removals.items()
        if name not in known
    ]


def agreement_rows(name: str, found: Agreement) -> list[Row]:
    """A row a measure."""
    return [
        {"method": name, "measure": measure, **interval_row(interval)}
        for measure, interval in found.intervals().items()
    ]


def readable(content: Mapping[str, Any]) -> str:
    """A report as text: config, tables, aims."""
    lines = [f"{content['script']}  commit {content['commit']}"]
    lines += [f"  {key}: {value}" for key, value in content["config"].items() if not isinstance(value, list)]
    for title, rows in content["results"].items():
        lines += ["", title, *_table(rows)]
    if content["aims"]:
        lines += ["", "aims"]
    for entry in content["aims"]:
        mark = "met" if entry["met"] else "NOT MET"
        note = f" ({entry['note']})" if entry["note"] else ""
        lines.append(
            f"  {mark:8s}{entry['name']}: {entry['value']} {entry['unit']}, aim {entry['aim']}{note}"
        )
    return "\n".join(lines)


def _clear(name: str, interval: Interval, unit: str) -> Row:
    note = f"{interval.level:.0%} interval {interval.low:.3g} to {interval.high:.3g} must be clear of zero"
    return aim(name, interval.value, 0, unit, interval.above(0.0), note)


def _table(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    return [
        "  " + "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        return found.group(1).strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None
