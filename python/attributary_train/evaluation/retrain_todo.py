"""What the workers of a retraining are left by their supervisor: the training set, and the runs to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.retrain import RetrainStore
from attributary_train.files import reading, whole, write_text
from attributary_train.subject.captions import Captions
from attributary_train.subject.data import SubjectData
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.train import Run

# What is written of an item's several captions besides their words.
_CAPTION_TENSORS = ("states", "of_item", "shares")


@dataclass(frozen=True)
class Todo:
    """The training set, runs of one recipe, and after how many steps a checkpoint is kept."""

    data: SubjectData
    runs: list[Run]
    save_every: int


def write_todo(path: Path, store: RetrainStore, runs: Sequence[Run], save_every: int) -> None:
    """Leave the training set in the store and the to-do list at `path`.

    Raises `EvaluationError` if the runs are of several recipes or the files cannot be written.
    """
    recipes = {run.recipe.digest() for run in runs}
    if len(recipes) > 1:
        raise EvaluationError("runs", f"{len(recipes)} recipes in one list; ask for one after the other")
    data = store.folder / "data" / f"{store.data_digest[:32]}.safetensors"
    if not data.exists():
        _write_data(data, store.data)
    facts = {
        "data": str(data),
        "recipe": runs[0].recipe.to_json(),
        "runs": [_run_to_json(run) for run in runs],
        "save_every": save_every,
    }
    write_text(path, json.dumps(facts), EvaluationError)


def read_todo(path: Path) -> Todo:
    """The inverse of `write_todo`."""
    todo = json.loads(path.read_text())
    data, recipe = _read_data(Path(todo["data"])), Recipe.from_json(todo["recipe"])
    runs = [_run_from_json(recipe, len(data), entry) for entry in todo["runs"]]
    return Todo(data, runs, todo["save_every"])


def _run_to_json(run: Run) -> dict[str, Any]:
    """A run for the to-do list; the recipe stands there once."""
    return {"kept": np.packbits(run.kept).tobytes().hex(), "seed": run.seed, "init_seed": run.init_seed}


def _run_from_json(recipe: Recipe, total: int, entry: dict[str, Any]) -> Run:
    """The inverse of `_run_to_json` for a training set of `total` items."""
    packed = np.frombuffer(bytes.fromhex(entry["kept"]), np.uint8)
    return Run(recipe, np.unpackbits(packed, count=total).astype(bool), entry["seed"], entry["init_seed"])


def _write_data(path: Path, data: SubjectData) -> None:
    tensors = {
        "ids": torch.from_numpy(data.ids.copy()),
        "latents": data.latents.contiguous(),
        "text": data.text.contiguous(),
        "empty": data.empty.contiguous(),
    }
    about = {"prompts": json.dumps(data.prompts), "digest": data.digest}
    if data.captions is not None:
        several = data.captions
        tensors |= {f"captions.{name}": getattr(several, name).contiguous() for name in _CAPTION_TENSORS}
        about["captions"] = json.dumps([several.levels, several.prompts])
    tensors |= {f"start.{name}": value.contiguous() for name, value in (data.start or {}).items()}
    with whole(path, EvaluationError) as file:
        file.write(to_bytes(tensors, about))


def _read_data(path: Path) -> SubjectData:
    with reading(path, EvaluationError, "not readable, remove it"), safe_open(path, "pt") as file:
        about = file.metadata()
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    prompts = tuple(json.loads(about["prompts"]))
    captions, start = None, {name[6:]: value for name, value in parts.items() if name.startswith("start.")}
    if "captions" in about:
        levels, facts = json.loads(about["captions"])
        captions = Captions(
            tuple(levels), tuple(facts), **{name: parts[f"captions.{name}"] for name in _CAPTION_TENSORS}
        )
    return SubjectData(
        parts["ids"].numpy(),
        prompts,
        parts["latents"],
        parts["text"],
        parts["empty"],
        about["digest"],
        captions,
        start or None,
    )
