"""Training of the U-Net: repeatable to the bit, resumable, and paired between runs that differ in a few items."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attributary_train.errors import SubjectError
from attributary_train.files import reading
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, loss_timesteps, new_scheduler, new_unet
from attributary_train.subject.noise import noise_grid, noise_key
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.state import load_state
from attributary_train.towers.weights import weights_digest

STATE = "training-state.pt"


@dataclass(frozen=True)
class Run:
    """One training run over `data`. `kept` is a mask, bool [N]: False leaves an item out (retraining without it).

    `init_seed` chooses the starting weights and `seed` batches and noise, so that two runs that differ only in `kept`
    meet the same batches but for the left-out items, whose places others take.
    """

    recipe: Recipe
    kept: npt.NDArray[np.bool_]
    seed: int
    init_seed: int

    def digest_fields(self, data: SubjectData) -> dict[str, Any]:
        """What must agree for a checkpoint to be continued."""
        return {
            "recipe": self.recipe.digest(),
            "data": data.digest,
            "kept": self.kept.astype(np.uint8).tobytes().hex(),
            "seed": self.seed,
            "init_seed": self.init_seed,
        }


# Up to here a step draws its batch as the start of an order of all items, which left-out ones need; above, that order
# would cost more than the step.
_PERMUTED = 1 << 17


def _few_rows(run: Run, stream: np.random.Generator, total: int) -> npt.NDArray[np.int64]:
    """Rows of one batch without an order of all items: more are drawn until enough of them are kept."""
    wanted = min(run.recipe.batch, int(np.count_nonzero(run.kept)))
    rows: dict[int, None] = {}
    while len(rows) < wanted:
        drawn = stream.integers(0, total, run.recipe.batch)
        rows.update(dict.fromkeys(drawn[run.kept[drawn]].tolist()))
    return np.resize(np.array(list(rows)[:wanted], np.int64), run.recipe.batch)


def batch_rows(run: Run, step: int, total: int) -> npt.NDArray[np.int64]:
    """Rows of one batch, int64 [B]; a left-out item's place goes to the next in this step's own order."""
    stream = np.random.default_rng((run.seed, 1, step))
    if total > _PERMUTED:
        return _few_rows(run, stream, total)
    order = stream.permutation(total)
    rows, rest = order[: run.recipe.batch].copy(), order[run.recipe.batch :]
    bad = np.flatnonzero(~run.kept[rows])
    if len(bad):
        spare = rest[run.kept[rest]]
        if len(spare) < len(bad):
            spare = np.resize(np.flatnonzero(run.kept), len(bad))
        rows[bad] = spare[: len(bad)]
    return rows


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm-up, then a cosine to 0."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return float(recipe.learning_rate * 0.5 * (1.0 + np.cos(np.pi * done)))


def starting_unet(run: Run, data: SubjectData) -> UNet2DConditionModel:
    """The U-Net that a run starts from; raises `SubjectError` naming what does not fit between run and data."""
    recipe = run.recipe
    if run.kept.shape != (len(data),):
        raise SubjectError("kept", f"shape {run.kept.shape}; the training set has {len(data)} items")
    if int(run.kept.sum()) < 1:
        raise SubjectError("kept", "leaves no item to train on")
    if data.text.shape[-1] != recipe.text_dim:
        raise SubjectError(
            "recipe.text_dim", f"{recipe.text_dim}; the text encoder's states have {data.text.shape[-1]}"
        )
    if bool(recipe.base) != (data.start is not None):
        come = "no weights to start from" if data.start is None else "weights to start from"
        raise SubjectError("recipe.base", f"is {recipe.base[:12] or 'empty'}, but the data come with {come}")
    torch.manual_seed(run.init_seed)
    unet = new_unet(recipe)
    if data.start is not None:
        unet.load_state_dict(dict(data.start))
    return unet


def drawn_batch(run: Run, data: SubjectData, step: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents and noise [B, C, h, w], timesteps [B] and token states [B, T, D] of one step, on `device` as `data` is.

    Drawn on the CPU, so that a run meets the same ones on every device.
    """
    recipe = run.recipe
    rows = torch.from_numpy(batch_rows(run, step, len(data))).to(device)
    noise_stream = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
    latents = data.latents[rows]
    if recipe.flips:
        mirrored = (torch.rand(len(rows), generator=noise_stream) < 0.5).to(device)
        latents = torch.where(mirrored[:, None, None, None], latents.flip(-1), latents)
    noise = torch.randn(latents.shape, generator=noise_stream).to(device)
    timesteps = torch.randint(0, recipe.timesteps, (len(rows),), generator=noise_stream).to(device)
    dropped = (torch.rand(len(rows), generator=noise_stream) < recipe.caption_dropout).to(device)
    states = data.text[rows] if data.captions is None else data.captions.drawn(rows, noise_stream)
    return latents, noise, timesteps, torch.where(dropped[:, None, None], data.empty, states)


def train_unet(
    run: Run,
    data: SubjectData,
    *,
    state_dir: Path | None = None,
    save_every: int = 500,
    log: Callable[[str], None] | None = None,
    on_step: Callable[[int, UNet2DConditionModel, float], None] | None = None,
    device: str = "cpu",
) -> UNet2DConditionModel:
    """Train from `data.start`, else from chance, and return the averaged weights (EMA), in evaluation mode.

    Continues from `state_dir` if that holds a checkpoint of the very same run; raises `SubjectError` if it holds
    another's, or if the loss stops being finite. `on_step(step, ema, loss)` is called every `save_every` steps.
    Batches, noise and starting weights are drawn on the CPU, so a run on another `device` meets the same ones; its
    arithmetic differs in the last bits. The weights come back on the CPU.
    """
    recipe = run.recipe
    unet = starting_unet(run, data)
    ema = copy.deepcopy(unet).requires_grad_(False).eval()
    unet.to(device)
    ema.to(device)
    data = data.to(device)
    optimiser = torch.optim.AdamW(
        unet.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    start = 0
    if state_dir is not None and (state_dir / STATE).exists():
        start = _resume(state_dir / STATE, run, data, unet, ema, optimiser)
    model = SubjectModel(unet, new_scheduler(recipe), "", {})
    averaged, current = list(ema.parameters()), list(unet.parameters())
    began, running = time.monotonic(), 0.0
    unet.train()
    for step in range(start, recipe.steps):
        latents, noise, timesteps, text = drawn_batch(run, data, step, device)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        with (
            torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.bf16),
            sdpa_kernel(SDPBackend.MATH) if recipe.plain_attention else nullcontext(),
        ):
            answer = model.predict(latents, noise, timesteps, text)
        loss = (answer.float() - model.target(latents, noise, timesteps)).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(current, 1.0)
        if not torch.isfinite(norm):
            raise SubjectError(
                "gradient", f"not finite at step {step} of {recipe.name}; lower the learning rate"
            )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        decay = min(recipe.ema_decay, (1.0 + step) / (10.0 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averaged, current, 1.0 - decay)
        running = loss.item() if step == start else 0.98 * running + 0.02 * loss.item()
        done = step + 1
        if done % save_every == 0 and done < recipe.steps:
            if state_dir is not None:
                _save(state_dir / STATE, run, data, unet, ema, optimiser, done)
            if on_step is not None:
                on_step(done, ema, running)
        if log is not None and done % 100 == 0:
            log(f"step {done}/{recipe.steps}: loss {running:.4f}, {time.monotonic() - began:.0f} s")
    # Checkpoints hold half precision; what is measured here is what is loaded later.
    ema.cpu().half().float()
    if on_step is not None:
        on_step(recipe.steps, ema, running)
    return ema


def _save(path: Path, run: Run, data: SubjectData, unet: Any, ema: Any, optimiser: Any, step: int) -> None:
    # A full disk is left as torch reports it: a retraining stops on it and goes on later, instead of giving the run up.
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(
        {
            "run": json.dumps(run.digest_fields(data)),
            "unet": unet.state_dict(),
            "ema": ema.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
        },
        part,
    )
    part.replace(path)


def _resume(path: Path, run: Run, data: SubjectData, unet: Any, ema: Any, optimiser: Any) -> int:
    state = load_state(path)
    with reading(path, SubjectError, "not the checkpoint of a run"):
        fields = json.loads(state["run"])
    for name, value in run.digest_fields(data).items():
        if fields.get(name) != value:
            raise SubjectError(
                str(path), f"is the checkpoint of another run: {name} differs; choose another folder"
            )
    unet.load_state_dict(state["unet"])
    ema.load_state_dict(state["ema"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


@torch.inference_mode()
def mean_loss(model: SubjectModel, data: SubjectData, timesteps: int = 10, batch: int = 256) -> float:
    """Mean denoising loss over all items at evenly spaced timesteps, with the noise that belongs to each."""
    grid = loss_timesteps(model, timesteps)
    keys = [noise_key(int(i), p) for i, p in zip(data.ids, data.prompts, strict=True)]
    noise = noise_grid(keys, grid, data.latents.shape[1:])
    total = 0.0
    for column, step in enumerate(grid):
        for at in range(0, len(data), batch):
            part = slice(at, at + batch)
            steps = torch.full((len(data.latents[part]),), step)
            texts = data.text_at(torch.arange(len(data))[part], steps)
            total += model.losses(data.latents[part], noise[part, column], steps, texts).double().sum().item()
    return total / (len(data) * timesteps)


def finished(unet: UNet2DConditionModel, recipe: Recipe, facts: dict[str, Any]) -> SubjectModel:
    """Wrap trained weights."""
    return SubjectModel(unet.eval().requires_grad_(False), new_scheduler(recipe), weights_digest(unet), facts)
