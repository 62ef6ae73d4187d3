"""Running the steps: what is done is not done again, what is asked otherwise is, and all that hangs on it."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attributary_train.errors import OwnError
from attributary_train.files import write_text

from .road import MODULES, Step

STATE = "own.json"
# `generators.counting.VARIABLE`, which would bring torch along.
VARIABLE = "ATTRIBUTARY_PASSES"


def run_steps(steps: Sequence[Step], out: Path, inputs: str, say: Callable[[str], None]) -> list[str]:
    """Run what is not done yet; returns the names of the steps that ran.

    `inputs` stands for what the user brought: if that changes, or the words of a step, it and all after it begin anew.
    A step that was killed goes on as its own command does. Raises `OwnError` naming the step that failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    known = _read(out / STATE)
    chain, ran = inputs, []
    for step in steps:
        chain = hashlib.sha256(f"{chain}\n{step.command}".encode()).hexdigest()
        before = known.get(step.name, {})
        if before.get("chain") == chain and before.get("done") is True and step.makes.exists():
            say(f"{step.name}: done before")
            continue
        if before and before.get("chain") != chain and not step.looks:
            _clear(step.folder)
        known[step.name] = {"chain": chain, "done": False}
        _write(out / STATE, known)
        say(f"{step.name}: {step.command}")
        status, used = _run(step, out)
        if status:
            raise OwnError(
                step.name, f"ended with status {status}; mend what it said and run the same command again"
            )
        known[step.name] = {"chain": chain, "done": True, "used": used}
        _write(out / STATE, known)
        ran.append(step.name)
    return ran


def used_by(out: Path) -> dict[str, dict[str, float]]:
    """What each finished step used: core seconds, seconds, passes of the denoiser; of its last run alone."""
    return {
        name: facts["used"]
        for name, facts in _read(out / STATE).items()
        if facts.get("done") and "used" in facts
    }


def _run(step: Step, out: Path) -> tuple[int, dict[str, float]]:
    """Run a step's command; returns its status and what it used."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".passes-") as folder:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        status = subprocess.run(
            [sys.executable, "-m", MODULES[step.tool], *step.argv],
            check=False,
            env={**os.environ, VARIABLE: folder},
        ).returncode
        after, spent = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
        cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        passes = sum(int(path.read_text()) for path in Path(folder).glob("*.json"))
    return status, {"core_seconds": round(cores, 1), "seconds": round(spent, 1), "passes": passes}


def _clear(path: Path) -> None:
    """Remove what a step wrote for other words or other inputs."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads(path.read_text())["steps"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OwnError(str(path), f"cannot be read: {error!r}; remove it to begin anew") from error


def _write(path: Path, steps: dict[str, dict[str, Any]]) -> None:
    write_text(path, json.dumps({"steps": steps}, indent=1) + "\n", OwnError)
