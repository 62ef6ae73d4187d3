"""EK-FAC factors through kronfluence (Apache-2.0): any set of Linear and Conv2d layers."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from attributary_train.errors import TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.teacher.draws import LossGrid, item_keys, target_noise
from attributary_train.teacher.ekfac import FactorSettings, Layer


class _Rows(Dataset[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]):
    """(item, timestep) pairs: latents, noise, timestep, text, noise of the pseudo-target (drawn as it is asked for)."""

    def __init__(self, data: SubjectData, grid: LossGrid, settings: FactorSettings) -> None:
        self.data, self.grid, self.settings = data, grid, settings
        self._keys = item_keys(data)

    def __len__(self) -> int:
        return len(self.data) * len(self.grid.timesteps)

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        column, row = divmod(at, len(self.data))
        drawn = torch.empty(0)
        if self.settings.sampled:
            step, shape = int(self.grid.timesteps[column]), self.data.latents.shape[1:]
            drawn = target_noise([self._keys[row]], step, shape, self.settings.seed)[0]
        return (
            self.data.latents[row],
            self.grid.noise[row, column],
            self.grid.timesteps[column],
            self.data.text_at(torch.tensor([row]), self.grid.timesteps[column : column + 1])[0],
            drawn,
        )


class _Denoiser(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet


def _task(subject: SubjectModel, names: Sequence[str]) -> Any:
    from kronfluence.task import Task

    class Denoising(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            latents, noise, steps, text, drawn = batch
            answer = subject.predict(latents, noise, steps, text, model.unet)
            target = answer.detach() + drawn if sample else subject.target(latents, noise, steps)
            return (answer - target).square().mean(dim=(1, 2, 3)).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return [f"unet.{name}" for name in names]

    return Denoising()


def fit(
    model: SubjectModel,
    data: SubjectData,
    grid: LossGrid,
    names: Sequence[str],
    settings: FactorSettings,
    scratch: Path,
) -> dict[str, Layer]:
    """Fit and read back; kronfluence's own files lie in a new folder of `scratch` meanwhile.

    Raises `TeacherError` if they cannot be written.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments

    logging.getLogger("kronfluence").setLevel(logging.ERROR)
    task = _task(model, names)
    # prepare_model wraps modules in place: a copy, so that the model others hold stays as it is.
    wrapped = prepare_model(_Denoiser(copy.deepcopy(model.unet)), task)
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        # One of its own: two fits at a time must not remove each other's files.
        folder = Path(tempfile.mkdtemp(prefix="kronfluence-", dir=scratch))
    except OSError as error:
        raise TeacherError(str(scratch), f"cannot be written: {error}") from error
    try:
        with warnings.catch_warnings():
            # kronfluence 1.0.1 names a scaler of torch.cuda.amp that torch has renamed.
            warnings.simplefilter("ignore", FutureWarning)
            analyzer = Analyzer("teacher", wrapped, task, cpu=True, output_dir=str(folder), disable_tqdm=True)
            analyzer.fit_all_factors(
                "ekfac",
                _Rows(data, grid, settings),
                per_device_batch_size=settings.batch,
                factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=not settings.sampled),
                overwrite_output_dir=True,
            )
            found = analyzer.load_all_factors("ekfac")
    except OSError as error:
        raise TeacherError(str(folder), f"cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    layers = {}
    for name in names:
        key = f"unet.{name}"
        count = float(found["num_lambda_processed"][key].item())
        layers[name] = Layer(
            found["activation_eigenvectors"][key].float().contiguous(),
            found["gradient_eigenvectors"][key].float().contiguous(),
            (found["lambda_matrix"][key].float() / count).contiguous(),
        )
    return layers
