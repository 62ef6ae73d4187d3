"""Whether a server stays what it is for as long as it runs: memory, descriptors, threads and p99 by the minute.

    python benchmarks/soak.py --bundle out/bundle --minutes 30 --save

Callers ask with pictures, embeddings, batches and streams, and one sends damaged and hostile pictures, leaves before
the answer and hangs up, at a rate that leaves the server room. The last third of the time is compared with the first,
after a warm-up of a tenth: beside each figure stands what a flat line allows. Memory is the least of an interval, the
server's with its decoders, since a picture in hand is no growth. `probe_ms`, the p99 of a millisecond of arithmetic in
the asking process, tells a busy machine from a server that has become slow.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import ROOT, Aim, aim, arguments, emit
from hostile_kinds import hostile
from hostile_pictures import PORT, server
from resident import resident

from attributary.client import Client, query
from attributary.errors import AttributaryError

# What a flat line allows, of medians of the two thirds.
MEMORY_MIB, DESCRIPTORS, THREADS, P99_RATIO = 32.0, 8.0, 2.0, 1.5
CALLERS = 3


@dataclass
class Felt:
    """What callers have felt since the last row."""

    took: list[float] = field(default_factory=list)  # ms of single calls with good pictures
    probes: list[float] = field(default_factory=list)  # ms
    calls: int = 0
    failed: int = 0  # calls that should have been answered
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, *, took: float | None = None, probe: float | None = None, failed: bool = False) -> None:
        """Count one call, or a probe."""
        with self.lock:
            if probe is not None:
                self.probes.append(probe)
                return
            self.calls += 1
            self.failed += failed
            if took is not None:
                self.took.append(took)

    def row(self) -> dict[str, Any]:
        """The row of an interval; the next one begins."""
        with self.lock:
            took, probes = self.took or [np.nan], self.probes or [np.nan]
            p50, p99 = np.percentile(took, (50, 99))
            told = {
                "calls": self.calls,
                "failed": self.failed,
                "p50_ms": round(float(p50), 1),
                "p99_ms": round(float(p99), 1),
                "probe_ms": round(float(np.percentile(probes, 99)), 2),
            }
            self.took, self.probes, self.calls, self.failed = [], [], 0, 0
        return told


def good(felt: Felt, over: threading.Event, dim: int, pictures: Sequence[bytes], pause_s: float) -> None:
    """A caller whose every call must be answered: pictures, embeddings, now and then a batch and a stream."""
    rng = np.random.default_rng(threading.get_ident() % 1_000)
    with Client(f"127.0.0.1:{PORT}", token="quiet", timeout_s=60, retry=False) as client:
        for number in itertools.count():
            if over.wait(pause_s):
                return
            picture = pictures[number % len(pictures)]
            vector = rng.standard_normal(dim).astype(np.float32)
            begun = time.perf_counter()
            took = None
            try:
                if number % 20 == 0:
                    results = client.attribute_batch([query(picture), query(embedding=vector)], top_k=5)
                    failed = any(isinstance(result, Exception) for result in results)
                elif number % 20 == 10:
                    asked = [query(embedding=vector)] * 4
                    failed = any(isinstance(one, Exception) for one in client.attribute_stream(asked))
                elif number % 2:
                    client.attribute(embedding=vector, top_k=10)
                    failed = False
                else:
                    client.attribute(picture, prompt="a red apple", top_k=10)
                    took, failed = (time.perf_counter() - begun) * 1e3, False
            except AttributaryError:
                failed = True
            felt.note(took=took, failed=failed)


def bad(felt: Felt, over: threading.Event) -> None:
    """A caller who sends what is refused, leaves early, and opens a connection for each call."""
    kinds = [data for name, data in hostile().items() if "scans" not in name]
    for number in itertools.count():
        if over.wait(0.5):
            return
        leaves = number % 4 == 3
        try:
            with Client(
                f"127.0.0.1:{PORT}", token="hostile", timeout_s=0.01 if leaves else 30, retry=False
            ) as one:
                one.attribute(kinds[number % len(kinds)])
        except AttributaryError:
            pass
        felt.note()


def probe(felt: Felt, over: threading.Event) -> None:
    """How long a millisecond of arithmetic takes here."""
    while not over.wait(0.05):
        begun = time.perf_counter()
        sum(range(20_000))
        felt.note(probe=(time.perf_counter() - begun) * 1e3)


def soak(process: psutil.Process, minutes: float, interval_s: float) -> list[dict[str, Any]]:
    """A row an interval."""
    pictures = [path.read_bytes() for path in sorted((ROOT / "models" / "demo-queries").glob("test-*.png"))]
    with Client(f"127.0.0.1:{PORT}", token="quiet", timeout_s=60) as client:
        dim = ready(client).dim
    felt, over = Felt(), threading.Event()
    work: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        *[(good, (felt, over, dim, pictures, 0.05))] * CALLERS, (bad, (felt, over)), (probe, (felt, over)),
    ]  # fmt: skip
    threads = [threading.Thread(target=target, args=given) for target, given in work]
    for thread in threads:
        thread.start()
    rows: list[dict[str, float]] = []
    begun = time.monotonic()
    while time.monotonic() - begun < minutes * 60:
        memory = []
        while time.monotonic() < begun + (len(rows) + 1) * interval_s:
            time.sleep(0.5)
            memory.append(resident(process.pid) / 2**20)
        rows.append(
            {
                "minute": round((time.monotonic() - begun) / 60, 2),
                **felt.row(),
                "memory_mib": round(min(memory), 1),
                "most_mib": round(max(memory), 1),
                "descriptors": process.num_fds(),
                "threads": process.num_threads(),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    over.set()
    for thread in threads:
        thread.join()
    return rows


def ready(client: Client) -> Any:
    """What the server says of its bundle, once it is there."""
    for _ in range(600):
        try:
            return client.describe()
        except AttributaryError:
            time.sleep(0.2)
    raise SystemExit("the server does not answer")


def verdict(rows: Sequence[dict[str, Any]]) -> list[Aim]:
    """The last third beside the first, after the warm-up."""
    settled = rows[max(1, len(rows) // 10) :]
    third = max(1, len(settled) // 3)

    def median(part: Sequence[dict[str, Any]], name: str) -> float:
        return float(np.median([row[name] for row in part]))

    first, last = settled[:third], settled[-third:]
    grown = {
        name: median(last, name) - median(first, name) for name in ("memory_mib", "descriptors", "threads")
    }
    slower = median(last, "p99_ms") / median(first, "p99_ms")
    failed = sum(row["failed"] for row in rows)
    return [
        aim("memory grown", grown["memory_mib"], MEMORY_MIB, "MiB", grown["memory_mib"] <= MEMORY_MIB),
        aim("descriptors grown", grown["descriptors"], DESCRIPTORS, "", grown["descriptors"] <= DESCRIPTORS),
        aim("threads grown", grown["threads"], THREADS, "", grown["threads"] <= THREADS),
        aim("p99 of the last third over that of the first", slower, P99_RATIO, "x", slower <= P99_RATIO),
        aim("good calls that failed", failed, 0, "", failed == 0),
    ]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "out" / "bundle")
    parser.add_argument("--minutes", type=float, default=30.0)
    args = parser.parse_args()
    # At least a dozen rows, so that a short run has a first and a last third as well.
    interval_s = min(60.0, args.minutes * 60 / 12)
    with server(args.bundle) as process:
        rows = soak(process, args.minutes, interval_s)
    aims = verdict(rows)
    config = {"minutes": args.minutes, "interval_s": interval_s, "callers": CALLERS,
              "flat": "yes" if all(one["met"] for one in aims) else "no"}  # fmt: skip
    emit("soak", config, rows, aims, args.json)


if __name__ == "__main__":
    main()
