"""One job in a process of its own, for `batch.py`: prints its seconds, peak memory and the digest of what it wrote.

`seconds` run from the planned log to the written summary; opening the engine, or starting a cluster, is `start_s`.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attributary.batch.job import score
from attributary.batch.plan import Plan, make_plan
from attributary.batch.settings import Settings


def local(plan: Plan, bundle: Path, out: Path, workers: int) -> float:
    """Threads of this process; returns the seconds of the job."""
    from attributary.attribution.open import open_engine
    from attributary.batch.scoring import EngineScorer, engine_limits

    limits = engine_limits(plan.settings)
    scorer = EngineScorer(open_engine(bundle, limits=limits, verify=False), plan.settings)
    began = time.perf_counter()
    score(plan, scorer, out, workers=workers)
    return time.perf_counter() - began


def on_ray(plan: Plan, bundle: Path, out: Path, workers: int) -> float:
    """A local Ray cluster with one actor a worker; returns the seconds of the job without its start.

    `local` opens its engine before the clock starts; here that happens inside the job. The clock starts with the first
    shard instead, and the time of that shard's rows is added at the rate of the others.
    """
    import ray

    from attributary.batch.engines import ScorerSource
    from attributary.batch.ray_runner import RayOptions, score_on_ray

    marks: list[tuple[int, float]] = []
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    score_on_ray(
        plan,
        ScorerSource(plan.settings, bundle),
        out,
        RayOptions(address="auto", actors=workers),
        progress=lambda counts: marks.append((counts.rows, time.perf_counter())),
    )
    ended = time.perf_counter()
    rows, began = next(mark for mark in marks if mark[0])
    if rows == plan.rows:
        raise SystemExit("the log has one shard only: its time cannot be told from the start of the actors")
    return (ended - began) * plan.rows / (plan.rows - rows)


RUNNERS = {"local": local, "ray": on_ray}


def main(text: str) -> None:
    asked: dict[str, Any] = json.loads(text)
    if asked["runner"] not in RUNNERS:
        raise SystemExit(f"no runner {asked['runner']!r}; there are {', '.join(RUNNERS)}")
    began = time.perf_counter()
    log = Path(asked["log"])
    out = Path(tempfile.mkdtemp(dir=log.parent))
    plan = make_plan([log], Settings())
    planned = time.perf_counter() - began
    began = time.perf_counter()
    seconds = RUNNERS[asked["runner"]](plan, Path(asked["bundle"]), out / "run", asked["workers"])
    start = time.perf_counter() - began - seconds
    digest = hashlib.sha256((out / "run" / "summary.json").read_bytes()).hexdigest()
    shutil.rmtree(out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "rows": plan.rows,
                "seconds": planned + seconds,
                "start_s": start,
                "peak_mib": peak,
                "digest": digest,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
