"""The autoencoder of the subject model: diffusers' AutoencoderKL, trained on the corpus."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from attributary_train.errors import SubjectError
from attributary_train.files import reading, whole, writing
from attributary_train.generators.latents import means
from attributary_train.generators.latents import pixels_of as to_pixels
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.state import load_state

STATE = "training-state.pt"
CONFIG = "config.json"
# What a finished autoencoder was made from.
MADE_FROM = "made-from.json"


def new_autoencoder(recipe: Recipe) -> AutoencoderKL:
    """An untrained autoencoder of the recipe's shape."""
    part = recipe.autoencoder
    levels = len(part.widths)
    factor = 2 ** (levels - 1)
    if recipe.image_size != recipe.latent_size * factor:
        raise SubjectError(
            "recipe.autoencoder.widths",
            f"{levels} levels make {recipe.image_size / factor:g} of {recipe.image_size}, not {recipe.latent_size}",
        )
    if part.latent_channels != recipe.latent_channels:
        raise SubjectError(
            "recipe.latent_channels",
            f"{recipe.latent_channels}, but the autoencoder has {part.latent_channels}",
        )
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=part.widths,
        layers_per_block=part.layers,
        latent_channels=part.latent_channels,
        norm_num_groups=8,
        sample_size=recipe.image_size,
    )


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def _loss(model: AutoencoderKL, pixels: Tensor, kl_weight: float) -> tuple[Tensor, Tensor]:
    posterior = model.encode(pixels).latent_dist
    restored = model.decode(posterior.sample()).sample
    # Drawings live by their outlines: differences of neighbours keep them sharp where squared error alone would blur.
    sharp = sum(F.l1_loss(a, b) for a, b in zip(_edges(restored.float()), _edges(pixels), strict=True))
    square = F.mse_loss(restored.float(), pixels)
    return square + 0.5 * sharp + kl_weight * posterior.kl().mean(), square


def train_autoencoder(
    recipe: Recipe,
    pictures: npt.NDArray[np.uint8],
    out: Path,
    *,
    corpus: str = "",
    save_every: int = 500,
    log: Callable[[str], None] = print,
    device: str = "cpu",
) -> AutoencoderKL:
    """Train on uint8 [N, S, S, 3]; resumes from `out` after an interruption; saves in diffusers' format.

    The scaling factor is set so that latents have unit deviation over the corpus, as diffusers expects. `corpus` is the
    digest of what the pictures are from. Returns it on the CPU. Raises `SubjectError` if the folder holds the state of
    another recipe or corpus, if the gradient stops being finite, or if a file cannot be written.
    """
    part = recipe.autoencoder
    torch.manual_seed(part.seed)
    model = new_autoencoder(recipe).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), part.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, part.learning_rate, total_steps=part.steps, pct_start=0.05
    )
    start, curve = 0, []
    with writing(out, SubjectError):
        out.mkdir(parents=True, exist_ok=True)
    if (out / STATE).exists():
        state = load_state(out / STATE)
        for name, value in (("recipe", recipe.digest()), ("corpus", corpus)):
            # States of before the corpus was noted have none.
            if (name == "recipe" or name in state) and state.get(name) != value:
                raise SubjectError(
                    str(out / STATE), f"belongs to another {name}; remove it or choose another folder"
                )
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        start, curve = state["step"], state["curve"]
    model.train()
    began = time.monotonic()
    for step in range(start, part.steps):
        # Drawn by step number, so that a resumed run sees what an uninterrupted one would.
        rows = np.random.default_rng((part.seed, step)).integers(0, len(pictures), part.batch)
        torch.manual_seed(part.seed * 1_000_003 + step)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=part.bf16):
            loss, square = _loss(model, to_pixels(pictures[np.sort(rows)]).to(device), part.kl_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise SubjectError(
                "autoencoder gradient", f"not finite at step {step} of {recipe.name}; lower the learning rate"
            )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        if step % 50 == 0 or step == part.steps - 1:
            curve.append([step, loss.item(), square.item()])
            spent = time.monotonic() - began
            log(f"autoencoder step {step}: loss {loss.item():.4f}, square {square.item():.5f}, {spent:.0f} s")
        if (step + 1) % save_every == 0 and step + 1 < part.steps:
            state = {
                "recipe": recipe.digest(),
                "corpus": corpus,
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
                "curve": curve,
            }
            with whole(out / STATE, SubjectError) as stream:
                torch.save(state, stream)
    # Checkpoints hold half precision: rounding now makes the latents of this process those of every later one.
    model.eval().half().float()
    model.register_to_config(
        scaling_factor=1.0 / float(means(model, pictures[:: max(1, len(pictures) // 2000)]).std())
    )
    model.cpu()
    with writing(out, SubjectError):
        _finish(out, model, curve, made_from(recipe, corpus))
    return model


def made_from(recipe: Recipe, corpus: str) -> dict[str, Any]:
    """What decides an autoencoder, as JSON gives it back."""
    facts = {
        "image_size": recipe.image_size,
        "autoencoder": dataclasses.asdict(recipe.autoencoder),
        "corpus": corpus,
    }
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def _finish(out: Path, model: AutoencoderKL, curve: list[Any], facts: dict[str, Any]) -> None:
    part = out / "part"
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    (part / "curve.json").write_text(json.dumps(curve))
    (part / MADE_FROM).write_text(json.dumps(facts) + "\n")
    # The configuration comes last: it says that the folder is whole.
    for path in sorted(part.iterdir(), key=lambda path: path.name == CONFIG):
        path.replace(out / path.name)
    part.rmdir()
    (out / STATE).unlink(missing_ok=True)


def is_finished(folder: Path, recipe: Recipe, corpus: str) -> bool:
    """Whether `folder` holds the autoencoder of this recipe and corpus; raises `SubjectError` if it is another's."""
    # Before a configuration came last, one could be left behind without weights.
    if not (folder / CONFIG).exists() or not any(folder.glob("*.safetensors")):
        return False
    note, wanted = folder / MADE_FROM, made_from(recipe, corpus)
    if not note.exists():
        # As old as that. Shapes are all that can be compared.
        wanted = {"block_out_channels": list(recipe.autoencoder.widths), "sample_size": recipe.image_size}
        note = folder / CONFIG
    with reading(note, SubjectError):
        about = json.loads(note.read_text())
        differs = [name for name, value in wanted.items() if about.get(name) != value]
    if differs:
        raise SubjectError(
            str(folder), f"holds an autoencoder of another {differs[0]}; remove it or choose another folder"
        )
    return True
