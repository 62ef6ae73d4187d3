"""Something to try the road with: photographs of a package, and a tiny generator that was trained on them."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from attributary_train.errors import OwnError
from attributary_train.files import reading
from attributary_train.generators.conditions import Layout
from attributary_train.generators.families import BY_NAME
from attributary_train.generators.latents import encode, pixels_of
from attributary_train.generators.schedules import schedule_of
from attributary_train.generators.tiny import tiny_pipeline

CHECKPOINT = "checkpoint"
_BATCH = 32


def train_example(
    folder: Path,
    family: str,
    *,
    image_size: int = 32,
    steps: int = 1200,
    seed: int = 0,
    log: Callable[[str], None],
) -> Path:
    """Train a tiny pipeline of a family on `folder`/pictures and items.csv; returns `folder`/checkpoint.

    Written whole or not at all. Raises `OwnError` for a table or pictures that cannot be read.
    """
    pictures, captions = _squares(folder, image_size)
    pipeline = tiny_pipeline(family, image_size=image_size, words=captions, seed=seed)
    _train_autoencoder(pipeline.vae, pictures, max(1, steps // 2), seed, log)
    about = BY_NAME[family]
    with torch.inference_mode():
        states = about.read(pipeline, [*captions, ""])
    layout = Layout.of(states)
    texts = layout.pack(states).clone()
    _train_denoiser(pipeline, family, encode(pipeline.vae, pictures), texts, layout, steps, seed, log)
    part = folder / f"{CHECKPOINT}.part"
    shutil.rmtree(part, ignore_errors=True)
    pipeline.save_pretrained(part)
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    part.replace(folder / CHECKPOINT)
    return folder / CHECKPOINT


def _squares(folder: Path, size: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Pictures cropped to their middle, uint8 [N, size, size, 3], and captions."""
    with reading(folder, OwnError, "its pictures cannot be read"):
        with (folder / "items.csv").open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
        pictures = []
        for row in rows:
            with Image.open(folder / "pictures" / row["file"]) as image:
                picture = image.convert("RGB")
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.crop((left, top, left + side, top + side))
            pictures.append(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)))
        return np.stack(pictures), [row["caption"] for row in rows]


def _train_autoencoder(
    vae: Any, pictures: npt.NDArray[np.uint8], steps: int, seed: int, log: Callable[[str], None]
) -> None:
    optimiser = torch.optim.AdamW(vae.parameters(), 2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    vae.train().requires_grad_(True)
    for step in range(steps):
        rows = np.random.default_rng((seed, step)).integers(0, len(pictures), _BATCH // 2)
        pixels = pixels_of(pictures[np.sort(rows)])
        found = vae.encode(pixels)
        latents = found.latent_dist.mean if hasattr(found, "latent_dist") else found.latent
        # Latents stay near unit size without a prior to hold them there.
        loss = (vae.decode(latents).sample - pixels).square().mean() + 1e-4 * latents.square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            log(f"autoencoder {step + 1}/{steps}: {loss.item():.4f}")
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1.0)
    if "shift_factor" in vae.config and vae.config.shift_factor is not None:
        vae.register_to_config(shift_factor=float(encode(vae, pictures).mean()) + vae.config.shift_factor)
    vae.register_to_config(scaling_factor=1.0 / float(encode(vae, pictures).std()))


def _train_denoiser(
    pipeline: Any, family: str, latents: Tensor, texts: Tensor, layout: Layout, steps: int, seed: int,
    log: Callable[[str], None],
) -> None:  # fmt: skip
    about = BY_NAME[family]
    module, schedule = getattr(pipeline, about.part), schedule_of(pipeline.scheduler)
    optimiser = torch.optim.AdamW(module.parameters(), 2e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    module.train().requires_grad_(True)
    running = 0.0
    for step in range(steps):
        stream = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(0, len(latents), (_BATCH,), generator=stream)
        noise = torch.randn(latents[rows].shape, generator=stream)
        timesteps = torch.randint(0, schedule.timesteps, (_BATCH,), generator=stream)
        dropped = torch.rand(_BATCH, generator=stream) < 0.1
        states = layout.unpack(torch.where(dropped[:, None, None], texts[-1:], texts[rows]))
        noisy = schedule.noised(latents[rows], noise, timesteps)
        answer = about.call(module, noisy, schedule.values(timesteps), states)
        loss = (answer - schedule.target(latents[rows], noise, timesteps)).square().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        rate.step()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            log(f"{about.part} {step + 1}/{steps}: {running:.4f}")
    module.eval().requires_grad_(False)
