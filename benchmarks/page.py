"""Write docs/performance.md from the kept results: every figure with its machine, its commit, its command and its aim.

    python benchmarks/page.py

Beside each result stands how many later commits changed the code that it describes: a figure older than its code is
not to be quoted. `make bench` measures everything anew and then runs this.
"""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from common import RESULTS, ROOT, machine_slug

PAGE = ROOT / "docs" / "performance.md"
MOST_ROWS = 30
LEFT_OUT = ("best", "all")  # of `search_peers`: hundreds of rows, which its other tables sum up
# Of the waterfall: characters, and the phases in the order of a query's way.
WIDTH = 60
PHASES = tuple(
    f"{name}_ms"
    for name in ["queue", "decode", "preprocess", "tokenize", "encode", "search", "rescore", "assemble"]
)
# Of the flame graph in words; the picture has the rest.
LEAST_FRAME, DEEPEST_FRAME = 0.03, 16
# In the order of a reader's questions; with the code that each describes.
SERVING = ["python/attributary", "kernels"]
SCRIPTS: dict[str, list[str]] = {
    "serving": SERVING,
    "embedding_queries": SERVING,
    "cold_start": SERVING,
    "serving_batch": SERVING,
    "picture_queries": SERVING,
    "alternatives": SERVING,
    "headline": SERVING,
    "search_peers": ["python/attributary/index", "kernels/rescore", "kernels/scan"],
    "search_peers_1m": ["python/attributary/index", "kernels/rescore", "kernels/scan"],
    "index": ["python/attributary/index", "kernels/rescore"],
    "kernels": ["kernels", "python/attributary/kernels"],
    "decode": ["python/attributary/pictures"],
    "encoder_cost": ["python/attributary/encoder", "models/student"],
    "lifecycle": ["python/attributary/delta", "python/attributary/index"],
    "batch": ["python/attributary/batch", "python/attributary/attribution"],
    "triton": ["python/attributary/triton", "kernels/triton_faiss", "python/attributary/gateway"],
    "triton_backend": ["kernels/triton_faiss"],
    "growth": ["python/attributary/building", "python/attributary/index", "python/attributary/bundle"],
    "capacity": ["python/attributary/index", "kernels/rescore"],
}

INTRODUCTION = """# Performance

The newest result of every script in `benchmarks/results/`, with its machine. Written by `benchmarks/page.py`;
`make bench` measures anew and rewrites it. Peers and floors are in the same run as what they stand beside. On a machine
that others share, trust ratios and CPU time before queries a second; `benchmarks/compare.py BEFORE.json AFTER.json`
tells two results of a script as ratios. Nothing here ran on a GPU.
"""


def changed_since(commit: str, paths: Sequence[str]) -> int | None:
    """How many commits after `commit` touched the paths; None where git cannot say."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "rev-list", "--count", f"{commit.split('+')[0]}..HEAD", "--", *paths],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return int(done.stdout)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(cell(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def cell(value: object) -> str:
    """Three figures, or the text with its bars escaped."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1_000 else f"{value:,.0f}"
    return str(value).replace("|", "\\|")


def section(script: str, report: Mapping[str, Any]) -> str:
    """One script's part of the page."""
    program = script.removesuffix("_1m")
    documented = ast.get_docstring(ast.parse((ROOT / "benchmarks" / f"{program}.py").read_text())) or script
    later = changed_since(report["commit"], SCRIPTS[script])
    age = {None: "", 0: "; its code has not changed since"}.get(
        later, f"; {later} later commits changed the code it describes: **to be measured again**"
    )
    facts = report["machine"]
    parts = [
        f"## {script}",
        documented.split("\n\n")[0],
        f"`benchmarks/{program}.py` at {report['commit']}{age}. {facts['cpu']}, {facts['cores']} cores, "
        f"{facts['gpu'] or 'no GPU'}.",
    ]
    if report["aims"]:
        asked = [
            {
                "aim": item["name"],
                "value": item["value"] if item["value"] is not None else "not measured",
                "asked": item["aim"],
                "unit": item["unit"],
                "met": "yes" if item["met"] else "no",
                "note": item["note"],
            }
            for item in report["aims"]
        ]
        parts.append(table(asked))
    found = report["results"]
    for title, rows in (found if isinstance(found, Mapping) else {"results": found}).items():
        if title in LEFT_OUT:
            continue
        if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
            shown = f"**{title}**" + (
                f" (the first {MOST_ROWS} of {len(rows)} rows)" if len(rows) > MOST_ROWS else ""
            )
            parts += [shown, table(rows[:MOST_ROWS])]
    return "\n\n".join(parts)


def waterfall(phases: Sequence[Mapping[str, Any]]) -> str:
    """Where the time of one query alone goes, from the phases that `serving` measured, in milliseconds."""
    parts = [
        "## Where one query's time goes",
        "Medians of queries that are alone, phase after phase, from the run of `serving` below and as old as it is. "
        "*Around them*: gRPC on both sides, the way in, the client; `embedding_queries` has an echo of these sizes.",
    ]
    for row in phases:
        if row["concurrency"] != 1:
            continue
        spent = {name.removesuffix("_ms"): row[name] for name in PHASES if row[name] > 0}
        spent["around them"] = max(0.0, row["p50_ms"] - sum(spent.values()))
        total, at, bars = sum(spent.values()), 0.0, []
        for name, ms in spent.items():
            left, width = round(WIDTH * at / total), max(1, round(WIDTH * ms / total))
            bars.append(f"{name:<12}{ms:8.2f} ms  {' ' * left}{'#' * width}".rstrip())
            at += ms
        parts += [f"**{row['kind']}**, {total:.2f} ms", "```text\n" + "\n".join(bars) + "\n```"]
    return "\n\n".join(parts)


def flames(report: Mapping[str, Any]) -> str:
    """What a gateway does at saturation: pictures that `flame` has drawn, and the same in words."""
    documented = ast.get_docstring(ast.parse((ROOT / "benchmarks" / "flame.py").read_text())) or ""
    parts = ["## Where a gateway's time goes at saturation", documented.split("\n\n")[2].replace("\n", " ")]
    parts.append(f"`benchmarks/flame.py` at {report['commit']}, {report['machine']['cpu']}.")
    for kind, frames in report["results"].items():
        lines = [
            f"{frame['share']:6.1%} {'  ' * frame['depth']}{frame['frame']}"[:110]
            for frame in frames
            if frame["share"] >= LEAST_FRAME and frame["depth"] < DEEPEST_FRAME
        ]
        parts += [f"**{kind} queries**", f"![{kind} queries](images/flame-{kind}.svg)"]
        parts.append("```text\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts)


def newest(script: str) -> dict[str, Any] | None:
    """A script's result of the latest commit, of whatever machine; None where there is none."""
    found: list[tuple[float, int, dict[str, Any]]] = []
    for path in sorted(RESULTS.glob(f"{script}-*.json")):
        report = json.loads(path.read_text())
        # Not those of another script with a longer name, nor a variant's.
        if path.stem == f"{script}-{machine_slug(report['machine'])}":
            later = changed_since(report["commit"], ["."])
            found.append((float("inf") if later is None else later, len(found), report))
    return min(found)[2] if found else None


def main() -> None:
    """Write the page."""
    parts = [INTRODUCTION.strip()]
    reports = {script: report for script in SCRIPTS if (report := newest(script))}
    if "serving" in reports:
        parts.append(waterfall(reports["serving"]["results"]["phases"]))
    if flame := newest("flame"):
        parts.append(flames(flame))
    parts += [section(script, report) for script, report in reports.items()]
    PAGE.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
