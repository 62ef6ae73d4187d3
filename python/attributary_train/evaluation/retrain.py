"""A store of retrained models: a run is trained once, whatever asks for it.

A run is (recipe, kept items, seed, init_seed) over one training set; its averaged weights lie in one file named by the
digest of all that. Protocols and methods that remove the same items share the run. Every run starts from untrained
weights: starting from a trained model would keep what the removed items taught it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from attributary_train.errors import EvaluationError
from attributary_train.files import reading, whole, write_text
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, new_unet
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.train import Run, finished
from attributary_train.towers.weights import weights_digest

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Trained:
    """What is known about a finished run besides its weights."""

    weights: str  # SHA-256 of the averaged U-Net
    seconds: float  # of training, over all its processes
    items: int  # kept


class RetrainStore:
    """Retrained models of one training set under a folder.

    <folder>/<digest>.safetensors (weights, float32), <digest>.failed.json, work/<digest>/ (checkpoint of an unfinished
    run), locks/, data/ (the training set, for the workers), losses/ (of queries).
    """

    def __init__(self, folder: Path, data: SubjectData) -> None:
        self.folder = folder
        self.data = data
        self.data_digest = _content_digest(data)

    @property
    def locks(self) -> Path:
        """Folder of what is held while a run is trained."""
        return self.folder / "locks"

    def digest(self, run: Run) -> str:
        """SHA-256 of everything that decides the run's weights, hexadecimal."""
        fields_of_run = {**run.digest_fields(self.data), "content": self.data_digest}
        return hashlib.sha256(json.dumps(fields_of_run, sort_keys=True).encode()).hexdigest()[:32]

    def path(self, run: Run) -> Path:
        """Where the run's weights lie, or will."""
        return self.folder / f"{self.digest(run)}.safetensors"

    def work(self, run: Run) -> Path:
        """Folder of an unfinished run's checkpoint."""
        return self.folder / "work" / self.digest(run)

    def done(self, run: Run) -> bool:
        """Whether the run is finished."""
        return self.path(run).exists()

    def failure(self, run: Run) -> str | None:
        """Why the run failed, if it did."""
        path = self._failed(run)
        if not path.exists():
            return None
        try:
            return str(json.loads(path.read_text())["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return "no reason recorded"

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        """Runs neither finished nor failed, each once, in order."""
        unique = {self.digest(run): run for run in runs}
        return [run for run in unique.values() if not self.done(run) and self.failure(run) is None]

    def save(self, run: Run, unet: Any, seconds: float) -> None:
        """Keep a finished run's U-Net, atomically, and drop its checkpoint."""
        facts = Trained(weights_digest(unet), seconds, int(run.kept.sum()))
        raw = to_bytes(
            {name: value.contiguous() for name, value in unet.state_dict().items()}, _as_text(facts)
        )
        with whole(self.path(run), EvaluationError) as file:
            file.write(raw)
        shutil.rmtree(self.work(run), ignore_errors=True)

    def fail(self, run: Run, reason: str) -> None:
        """Record that a run failed; it is not tried again until `forget_failures`."""
        facts = {"reason": reason, "seed": run.seed, "init_seed": run.init_seed}
        write_text(self._failed(run), json.dumps(facts) + "\n", EvaluationError)
        shutil.rmtree(self.work(run), ignore_errors=True)

    def forget_failures(self, runs: Sequence[Run]) -> int:
        """Let failed runs be tried again; returns how many."""
        failed = [self._failed(run) for run in runs if self._failed(run).exists()]
        for path in set(failed):
            path.unlink(missing_ok=True)
        return len(set(failed))

    def facts(self, run: Run) -> Trained:
        """Facts about a finished run."""
        damaged = reading(self.path(run), EvaluationError, "not readable, remove it")
        with damaged, safe_open(self._finished(run), "pt") as file:
            return _from_text(file.metadata() or {})

    def load(self, run: Run) -> SubjectModel:
        """Open a finished run; raises `EvaluationError` if it is missing, damaged, or failed."""
        facts = self.facts(run)
        unet: Any = new_unet(run.recipe)
        try:
            unet.load_state_dict(load_file(self.path(run)))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise EvaluationError(str(self.path(run)), f"not readable, remove it: {error}") from error
        model = finished(unet, run.recipe, {})
        if model.weights != facts.weights:
            raise EvaluationError(str(self.path(run)), "its weights are not those that were saved; remove it")
        return model

    def _finished(self, run: Run) -> Path:
        path = self.path(run)
        if not path.exists():
            reason = self.failure(run)
            raise EvaluationError(
                str(path), f"the run failed: {reason}" if reason else "the run is not trained yet"
            )
        return path

    def _failed(self, run: Run) -> Path:
        return self.folder / f"{self.digest(run)}.failed.json"


def without(data: SubjectData, removed: Sequence[int] | npt.NDArray[np.int64]) -> Mask:
    """Mask bool [N] that keeps everything but the ids `removed`; raises `SubjectError` naming an unknown id."""
    mask = np.ones(len(data), bool)
    mask[data.rows(removed)] = False
    return mask


def full_run(recipe: Recipe, data: SubjectData, seed: int, init_seed: int) -> Run:
    """The run over all items."""
    return Run(recipe, np.ones(len(data), bool), seed, init_seed)


def _content_digest(data: SubjectData) -> str:
    # `data.digest` names pictures and captions; latents and token states also depend on the encoders.
    total = hashlib.sha256(data.digest.encode())
    parts = [data.latents, data.text, data.empty]
    if data.captions is not None:
        parts += [data.captions.states, data.captions.of_item, data.captions.shares]
    for part in parts:
        total.update(part.contiguous().numpy().tobytes())
    return total.hexdigest()


def _as_text(facts: Trained) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in asdict(facts).items()}


def _from_text(values: dict[str, str]) -> Trained:
    parsed: dict[str, Any] = {entry.name: json.loads(values[entry.name]) for entry in fields(Trained)}
    return Trained(**parsed)
