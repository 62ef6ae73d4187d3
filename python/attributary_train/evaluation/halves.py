"""Truth with power: many models on random halves of the items, and the losses of every query under each of them.

A model's weights are of little use once the losses are taken; these are small and are what is kept.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from torch.nn.attention import SDPBackend, sdpa_kernel

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.half_plan import Half
from attributary_train.evaluation.query_loss import Grid, QueryLoss, mean_losses
from attributary_train.evaluation.retrain import Mask
from attributary_train.files import reading, whole
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Queries
from attributary_train.subject.together import train_together
from attributary_train.subject.train import STATE, finished, train_unet

Losses = npt.NDArray[np.float32]
# Training queries are many and each is only one of them; the others are judged one by one.
GRIDS = {"train": Grid(3, 2), "validation": Grid(8, 2), "test": Grid(8, 2)}


def write_masks(path: Path, masks: Mask, ids: npt.NDArray[np.int64]) -> None:
    """`kept` (bits of bool [M, N]) and `ids` (int64 [N]); raises `EvaluationError` if the file has other halves.

    One with more halves stays as it is.
    """
    kept = np.packbits(masks, axis=1)
    if path.exists():
        before, of = read_masks(path)
        count = min(len(before), len(kept))
        if not np.array_equal(of, ids) or not np.array_equal(before[:count], kept[:count]):
            raise EvaluationError(str(path), "holds other items or halves; choose another folder")
        if len(before) >= len(kept):
            return
    with whole(path, EvaluationError) as stream:
        np.savez_compressed(stream, kept=kept, ids=ids)


def read_masks(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """What `write_masks` wrote: packed rows and ids; raises `EvaluationError` if it cannot be read."""
    with reading(path, EvaluationError), np.load(path, allow_pickle=False) as parts:
        return parts["kept"], parts["ids"]


class EveryLoss:
    """Mean denoising loss of every query under any model, with the same noise for every model.

    Products are bfloat16, which is nearly twice as fast on CPUs; what that changes is small beside what tells halves
    apart (docs/bench.md).
    """

    def __init__(self, queries: Queries) -> None:
        self._count = len(queries)
        rows = {split: [row for row, name in enumerate(queries.splits) if name == split] for split in GRIDS}
        self._parts = {
            split: (part, QueryLoss(queries.take(part), GRIDS[split])) for split, part in rows.items() if part
        }

    def of(self, model: SubjectModel, device: str = "cpu") -> Losses:
        """Float32 [Q]; the model is moved to `device`."""
        out = np.empty(self._count, np.float32)
        model.unet.to(device)
        for rows, losses in self._parts.values():
            with torch.autocast(torch.device(device).type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
                out[rows] = mean_losses(losses.cells(model))
        return out


class Truth:
    """A folder of losses, one file a split of all trainings, renewed as they come; in `work` a small one a training.

    losses-<split>.npz: `losses` float32 [R, Q], `runs` R names; plan.npz: the halves, see `write_masks`. What is in the
    folder is not trained again, whether or not `work` knows it: the folder is what travels.
    """

    def __init__(
        self, folder: Path, work: Path, queries: Queries, ids: npt.NDArray[np.int64], masks: Mask
    ) -> None:
        self.folder, self.work, self.queries, self.ids, self.masks = folder, work, queries, ids, masks
        self._splits = {
            split: [row for row, name in enumerate(queries.splits) if name == split]
            for split in dict.fromkeys(queries.splits)
        }
        for name, losses in self._packed().items():
            if self._read(name) is None:
                self.keep(name, losses)

    def done(self, name: str) -> bool:
        """Whether a training's losses are there."""
        return self._read(name) is not None

    def keep(self, name: str, losses: Losses) -> None:
        """Write a training's losses."""
        with whole(self._path(name), EvaluationError) as stream:
            np.savez(stream, losses=losses)

    def pack(self, names: Sequence[str]) -> int:
        """Write the losses of all trainings as one file a split; returns how many of `names` are there.

        Others that are in `work` or were in the folder stay: each command trains what it is asked for.
        """
        there = sorted(path.stem for path in (self.work / "losses").glob("*.npz"))
        found = [(name, values) for name in there if (values := self._read(name)) is not None]
        missing = set(names) - {name for name, _ in found}
        if not found:
            return 0
        table = np.stack([values for _, values in found])
        run_names = np.array([name for name, _ in found])
        for split, rows in self._splits.items():
            with whole(self.folder / f"losses-{split}.npz", EvaluationError) as stream:
                np.savez_compressed(stream, losses=table[:, rows], runs=run_names)
        write_masks(self.folder / "plan.npz", self.masks, self.ids)
        return len(names) - len(missing)

    def _packed(self) -> dict[str, Losses]:
        """Losses in the folder, by training; raises `EvaluationError` if they are of other queries or halves."""
        if not (self.folder / "plan.npz").exists():
            return {}
        write_masks(self.folder / "plan.npz", self.masks, self.ids)
        tables = {}
        for split in self._splits:
            path = self.folder / f"losses-{split}.npz"
            with reading(path, EvaluationError), np.load(path, allow_pickle=False) as parts:
                tables[split] = parts["losses"], parts["runs"].tolist()
        out: dict[str, Losses] = {}
        for split, rows in self._splits.items():
            losses, runs = tables[split]
            if losses.shape[1] != len(rows):
                raise EvaluationError(
                    str(self.folder), f"{losses.shape[1]} {split} queries; there are {len(rows)}"
                )
            for name, values in zip(runs, losses, strict=True):
                out.setdefault(name, np.empty(len(self.queries), np.float32))[rows] = values
        return out

    def _path(self, name: str) -> Path:
        return self.work / "losses" / f"{name}.npz"

    def _read(self, name: str) -> Losses | None:
        try:
            with np.load(self._path(name), allow_pickle=False) as parts:
                losses: Losses = parts["losses"]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        if losses.shape != (len(self.queries),):
            raise EvaluationError(
                str(self._path(name)), f"losses of {losses.shape} queries; there are {len(self.queries)}"
            )
        return losses


def train_halves(
    truth: Truth,
    plan: Sequence[Half],
    data: SubjectData,
    work: Path,
    *,
    device: str = "cpu",
    together: int = 1,
    until: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Train what is missing and take the losses; returns how many were added. `until` ends it between two.

    Several processes may share `work`: a training is held through a lock that the kernel frees. One that was killed
    goes on from its last checkpoint. `together`: so many models side by side, for a GPU; these have no checkpoints.
    """
    added, losses = 0, EveryLoss(truth.queries)
    (work / "locks").mkdir(parents=True, exist_ok=True)
    while not until():
        with ExitStack() as held:
            mine = _claim(truth, plan, work, together, held)
            if not mine:
                break
            if together == 1:
                at = work / mine[0].name
                unets = [train_unet(mine[0].run, data, state_dir=at, save_every=200, device=device)]
            else:
                unets = train_together([half.run for half in mine], data, device=device, log=say)
            for half, unet in zip(mine, unets, strict=True):
                _keep_weights(work / "weights" / f"{half.name}.pt", unet)
                truth.keep(half.name, losses.of(finished(unet, half.run.recipe, {}), device))
                (work / half.name / STATE).unlink(missing_ok=True)
        added += len(mine)
        with FileLock(work / "locks" / "pack.lock"):
            there = truth.pack([entry.name for entry in plan])
        say(f"{mine[-1].name}: {there} of {len(plan)} trainings")
    return added


def _claim(truth: Truth, plan: Sequence[Half], work: Path, count: int, held: ExitStack) -> list[Half]:
    """The next trainings of one recipe that nobody has, `count` at most; their locks are in `held`."""
    mine: list[Half] = []
    for half in plan:
        if len(mine) == count:
            break
        if truth.done(half.name) or (mine and half.run.recipe != mine[0].run.recipe):
            continue
        lock = FileLock(work / "locks" / f"{half.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        if truth.done(half.name):
            lock.release()
            continue
        held.callback(lock.release)
        mine.append(half)
    return mine


def _keep_weights(path: Path, unet: torch.nn.Module) -> None:
    values = {name: value.half() for name, value in unet.state_dict().items()}
    with whole(path, EvaluationError) as stream:
        torch.save(values, stream)
