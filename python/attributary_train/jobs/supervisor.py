"""The supervisor: one single-threaded worker a core or a GPU, watched until every piece is settled."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attributary_train.errors import TrainError

_SAY_EVERY_S = 30.0
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Crew:
    """Workers of one kind, and what they are told.

    kind: in messages, e.g. "label worker"; module: what each runs (`python -m`), with `arguments`, then the
    supervisor's process id and the worker's device; workers take `devices` in turn; logs: folder for what they print;
    pieces: what is made whole, e.g. "shards"; unit: what `total` counts, e.g. "pairs"; error: the exception that tells
    of workers that ended early.
    """

    kind: str
    module: str
    arguments: tuple[str, ...]
    workers: int
    devices: Sequence[str]
    logs: Path
    pieces: str
    unit: str
    total: float
    error: type[TrainError]


def supervise(
    crew: Crew, done: Callable[[], float], left: Callable[[], int], say: Callable[[str], None]
) -> None:
    """Start the crew and wait until its workers have ended; may be killed at any moment and called again.

    `done`: how many of `total` are done, parts of one included, for `say`; `left`: pieces that are not settled. Where
    some are when all workers have ended, raises the crew's error with the last words of the first that failed, and
    leaves the workers' logs for reading. Workers end with this process.
    """
    logs = [crew.logs / f"worker-{os.getpid()}-{at}.log" for at in range(crew.workers)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for at, log in enumerate(logs):
            processes.append(_start(crew, log, crew.devices[at % len(crew.devices)]))
        _watch(crew, processes, done, say)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            process.wait()
    if pieces := left():
        raise _explained(crew, pieces, [process.returncode for process in processes], logs)
    for log in logs:
        log.unlink(missing_ok=True)


def _start(crew: Crew, log: Path, device: str) -> subprocess.Popen[bytes]:
    # OpenMP threads that wait by spinning cost more than they give at this size, and would change the last bits.
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, "-m", crew.module, *crew.arguments, str(os.getpid()), device]
    try:
        with log.open("wb") as stream:
            return subprocess.Popen(command, env={**os.environ, **single}, stdout=stream, stderr=stream)
    except OSError as error:
        raise crew.error(str(log), f"cannot be written: {error}") from error


def _watch(
    crew: Crew,
    processes: Sequence[subprocess.Popen[bytes]],
    done: Callable[[], float],
    say: Callable[[str], None],
) -> None:
    began, before, said = time.monotonic(), done(), 0.0
    while any(process.poll() is None for process in processes):
        time.sleep(_LOOK_EVERY_S)
        if time.monotonic() - said < _SAY_EVERY_S:
            continue
        said, now = time.monotonic(), done()
        rate = (now - before) / (said - began)
        left = f"about {(crew.total - now) / rate / 60:.0f} min left" if rate > 0 else "time left unknown"
        say(
            f"{crew.kind}: {int(now):,} of {crew.total:,.0f} {crew.unit}, {(said - began) / 60:.1f} min, {left}"
        )


def _explained(crew: Crew, left: int, statuses: Sequence[int], logs: Sequence[Path]) -> TrainError:
    at = next((at for at, status in enumerate(statuses) if status), 0)
    try:
        words = logs[at].read_text(errors="replace").strip().splitlines()
    except OSError:
        words = []
    return crew.error(
        crew.kind,
        f"ended with status {statuses[at]}, {left} {crew.pieces} left; call again to go on: "
        f"{words[-1] if words else 'it left no message'}",
    )
