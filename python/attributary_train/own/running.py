"""Running the steps: what is done is not done again, what is asked otherwise is, and all that hangs on it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attributary_train.files import write_text

from .errors import OwnError
from .road import MODULES, Step

STATE = "own.json"


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
        if before == {"chain": chain, "done": True} and step.makes.exists():
            say(f"{step.name}: done before")
            continue
        if before and before.get("chain") != chain and not step.looks:
            _clear(step.folder)
        known[step.name] = {"chain": chain, "done": False}
        _write(out / STATE, known)
        say(f"{step.name}: {step.command}")
        status = subprocess.run(
            [sys.executable, "-m", MODULES[step.tool], *step.argv], check=False
        ).returncode
        if status:
            raise OwnError(
                step.name, f"ended with status {status}; mend what it said and run the same command again"
            )
        known[step.name] = {"chain": chain, "done": True}
        _write(out / STATE, known)
        ran.append(step.name)
    return ran


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
