"""What does the gateway add? The in-process core and a served one, same bundle, same cores, three kinds of query.

    benchmarks/serving.py --bundle out/demo/bundle --images out/corpus/images --json

Three processes stay alive and take turns: the core (threads that call the engine), the server (`attributary serve`),
and the load (asyncio, requests serialised beforehand, replies parsed afterwards). Every cell is measured in several
rounds, core and gateway next to each other; the tables hold medians over the rounds. `cpu_ms` is the CPU time of the
core or the server process a query: it depends less on the neighbours of a shared machine than queries a second do.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from common import Aim, aim, arguments, emit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KINDS = ("image", "pixels", "embedding")
PHASES = ("queue", "decode", "preprocess", "tokenize", "encode", "search", "rescore", "assemble")
BUNDLES = (ROOT / "out/demo/bundle", ROOT / "out/bundle")
IMAGES = (ROOT / "out/corpus/images", ROOT / "out/corpus")


class Child:
    """A process that answers one JSON line with one JSON line."""

    def __init__(self, role: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "serving_child.py"), role, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def ask(self, **cell: Any) -> dict[str, Any]:
        """Measure one cell."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(cell) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a benchmark process ended early; its error is above")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """End the process."""
        self._process.communicate("")


@contextmanager
def served(bundle: Path, flags: list[str], python: str = sys.executable) -> Iterator[tuple[int, int]]:
    """Run `attributary serve` of the installation that `python` has; yield (port, process id)."""
    command = [python, "-m", "attributary.cli.main", "serve", str(bundle), "--port", "0"]
    command += ["--metrics-port", "0", "--log-level", "warning", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start; its error is above")
        yield json.loads(line)["port"], process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and its workers have used, in seconds."""
    process = psutil.Process(pid)
    spent = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in spent))


def peak_rss_mib(pid: int) -> float | None:
    """Return the peak resident memory of a process in MiB, None where the system does not tell."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return None if found is None else round(int(found.group(1)) / 1024, 1)


def measure(options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Return (throughput rows, phase rows, facts)."""
    threads = str(options.encoder_threads)
    flags = ["--encoder-threads", threads, "--encode-workers", str(options.encode_workers), *options.flag]
    rounds: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        inputs = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "inputs.npz"
        core = Child("core", str(options.bundle), str(inputs), threads)
        stack.callback(core.close)
        facts = core.ask(prepare=str(options.images), count=options.count, side=options.side)
        port, pid = stack.enter_context(served(options.bundle, flags))
        load = Child("load", f"127.0.0.1:{port}", str(inputs))
        stack.callback(load.close)
        for number in range(options.rounds):
            for kind in options.kinds:
                for concurrency in options.concurrency:
                    cell = {"kind": kind, "concurrency": concurrency, "seconds": options.seconds}
                    pair = [("core", core), ("gateway", load)]
                    for name, child in pair if number % 2 == 0 else pair[::-1]:
                        busy = child.pid if name == "core" else pid
                        before = cpu_seconds(busy)
                        found = child.ask(**cell)
                        found["cpu_ms"] = 1e3 * (cpu_seconds(busy) - before) / found["queries"]
                        rounds.setdefault((kind, concurrency, name), []).append(found)
        facts["server_peak_rss_mib"] = peak_rss_mib(pid)
    rows, phases = [], []
    for (kind, concurrency, path), cells in rounds.items():
        cell = median_of(cells)
        shown = ("queries_per_s", "p50_ms", "p99_ms", "batch", "cpu_ms")
        rows.append(
            {"kind": kind, "concurrency": concurrency, "path": path, **{name: cell[name] for name in shown}}
        )
        if path == "gateway":
            spent = {phase: cell[phase] for phase in PHASES}
            total = sum(spent.values()) or 1.0
            phases.append(
                {
                    "kind": kind,
                    "concurrency": concurrency,
                    **{f"{phase}_ms": value for phase, value in spent.items()},
                    "sum_ms": total,
                    "work_ms": total - spent["queue"],
                    "p50_ms": cell["p50_ms"],
                    "over_phases": cell["over_phases"],
                    **{f"{phase}_share": value / total for phase, value in spent.items()},
                }
            )
    return rows, phases, facts


def median_of(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every figure over the rounds."""
    return {name: round(statistics.median(cell[name] for cell in cells), 4) for name in cells[0]}


def aims_of(rows: list[dict[str, Any]], phases: list[dict[str, Any]]) -> list[Aim]:
    """Hold the figures against what was asked for."""
    by_cell = {(row["kind"], row["concurrency"], row["path"]): row for row in rows}
    found: list[Aim] = []
    busiest = max(row["concurrency"] for row in rows)
    if embedding := by_cell.get(("embedding", busiest, "gateway")):
        rate = embedding["queries_per_s"]
        found.append(aim("embedding queries through the gateway", rate, 2000, "1/s", rate >= 2000))
    if served_images := by_cell.get(("image", busiest, "gateway")):
        # Against the best that the core does at any concurrency, not only at the same one.
        best = max(row["queries_per_s"] for row in rows if (row["kind"], row["path"]) == ("image", "core"))
        ratio = served_images["queries_per_s"] / best
        note = f"{served_images['queries_per_s']:.1f} of {best:.1f} per second"
        found.append(aim("image throughput over the in-process core's", ratio, 0.9, "x", ratio >= 0.9, note))
    for row in phases:
        if (row["kind"], row["concurrency"]) == ("image", 1):
            ratio = row["over_phases"]
            note = (
                f"median over queries of latency / own phases without queueing; "
                f"p50 {row['p50_ms']:.2f} ms, median phases {row['work_ms']:.2f} ms"
            )
            found.append(
                aim("p50 of a single image query over its phases", ratio, 1.2, "x", ratio <= 1.2, note)
            )
    return found


def first_existing(paths: tuple[Path, ...]) -> Path | None:
    """Return the first path that is there."""
    return next((path for path in paths if path.exists()), None)


def main() -> None:
    """Measure and tell."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=first_existing(BUNDLES))
    parser.add_argument("--images", type=Path, default=first_existing(IMAGES), help="folder of pictures")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=2.0, help="of one cell in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=64, help="different pictures asked about")
    parser.add_argument("--side", type=int, default=512, help="pictures are sent as JPEGs of this side")
    parser.add_argument("--encoder-threads", type=int, default=1)
    parser.add_argument("--encode-workers", type=int, default=0)
    parser.add_argument("--flag", action="append", default=[], help="more flags of `attributary serve`")
    options = parser.parse_args()
    if options.bundle is None or options.images is None:
        parser.error("no bundle found; give --bundle and --images, or run `make demo` first")
    rows, phases, facts = measure(options)
    config: Mapping[str, Any] = {
        **{
            name: value
            for name, value in vars(options).items()
            if name not in {"json", "save", "bundle", "images"}
        },
        **facts,
    }
    emit("serving", config, {"throughput": rows, "phases": phases}, aims_of(rows, phases), options.json)


if __name__ == "__main__":
    main()
