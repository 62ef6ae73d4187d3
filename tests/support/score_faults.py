"""Scores a log again and again, each time in a child that is killed at another point; prints what was left as JSON.

A point is one call that touches the disk: a child dies before it, after it, or in the middle of a write. Children are
forked from a process that has loaded everything and opened nothing, so that a run costs no start-up.
"""

import json
import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path

from attributary.attribution.open import open_engine
from attributary.batch import job
from attributary.batch.plan import make_plan
from attributary.batch.scoring import EngineScorer
from attributary.batch.settings import Settings
from attributary.bundle import files


class Deadly:
    """Stands for `os` in the writing module and kills the process at the n-th call that touches the disk."""

    def __init__(self, point=None, where="before"):
        self.calls, self._point, self._where = 0, point, where

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in ("open", "write", "fsync", "replace", "close"):
            return real

        def call(*arguments):
            self.calls += 1
            if self.calls == self._point and self._where != "after":
                if self._where == "inside" and name == "write":
                    handle, data = arguments
                    os.write(handle, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments)
            if self.calls == self._point:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def score(asked, out, deadly, acknowledged):
    """Score in this process; every count that is told goes to a file at once."""
    files.os = deadly
    settings = replace(Settings(), rows_per_shard=asked["rows_per_shard"], batch_size=3)
    plan = make_plan([asked["log"]], settings)
    engine = open_engine(asked["bundle"], verify=False)
    handle = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def progress(counts):
        os.write(handle, f"{counts.rows}\n".encode())

    job.score(plan, EngineScorer(engine, settings), Path(out), workers=2, progress=progress)


def child(work):
    """Run in a fork; return its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"child failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def count_points(asked, out):
    """How many calls an undisturbed run makes; leaves that run in `out`."""
    reader, writer = os.pipe()

    def work():
        deadly = Deadly()
        score(asked, out, deadly, f"{out}.ack")
        os.write(writer, str(deadly.calls).encode())

    assert child(work) == 0
    return int(os.read(reader, 32))


def committed_rows(out):
    """Rows in shards under their final names, each readable to its end."""
    import pyarrow.parquet as pq

    return sum(len(pq.read_table(path)) for path in Path(out, "shards").glob("shard-*.parquet"))


def attempt(asked, out, point, where):
    """Kill one run at a point, look at what it left, then let it finish."""
    acknowledged = f"{out}.ack"
    status = child(lambda: score(asked, out, Deadly(point, where), acknowledged))
    told = Path(acknowledged).read_text().split() if Path(acknowledged).exists() else []
    left = committed_rows(out)
    unfinished = len(list(Path(out).rglob("*.tmp")))
    resumed = child(lambda: score(asked, out, Deadly(), f"{out}.ack2"))
    return {
        "point": point,
        "where": where,
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "acknowledged": int(told[-1]) if told else 0,
        "committed": left,
        "unfinished": unfinished,
        "resumed": resumed,
    }


def main():
    asked = json.loads(sys.argv[1])
    work = Path(asked["work"])
    points = count_points(asked, str(work / "whole"))
    rng = random.Random(asked["seed"])
    results = []
    for number in range(asked["count"]):
        point = rng.randint(1, points)
        where = rng.choice(["before", "inside", "after"])
        results.append(attempt(asked, str(work / f"run-{number}"), point, where))
    # One run that is killed over and over, a little later each time.
    out, kills, point = str(work / "again"), 0, 3
    while child(lambda at=point: score(asked, out, Deadly(at, "inside"), f"{out}.ack")) != 0:
        kills += 1
        point += 2
        assert kills < 200
    print(json.dumps({"points": points, "results": results, "kills": kills}))


if __name__ == "__main__":
    main()
