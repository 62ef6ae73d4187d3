"""Recipes: everything that decides which weights a training run ends with, apart from the data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from attributary_train.subject.errors import SubjectError

# Name of the recipe of a checkpoint that was trained elsewhere: its sizes are known, its training is not.
ADOPTED = "adopted"


@dataclass(frozen=True)
class AutoencoderRecipe:
    """AutoencoderKL: pixels [3, size, size] in [-1, 1] to latents [channels, size / 8, size / 8]."""

    widths: tuple[int, ...] = (16, 24, 32, 64)
    layers: int = 1
    latent_channels: int = 8
    # Keeps latents bounded without blurring: the usual weight of latent diffusion (Rombach et al., 2022).
    kl_weight: float = 1e-6
    steps: int = 2600
    batch: int = 16
    learning_rate: float = 2e-3
    seed: int = 0
    # Slower than float32 on CPUs for so narrow layers.
    bf16: bool = False


@dataclass(frozen=True)
class Recipe:
    """A text-conditioned latent diffusion model and its training."""

    name: str
    image_size: int = 64
    latent_size: int = 8
    latent_channels: int = 8
    widths: tuple[int, ...] = (32, 64)
    # Which levels attend to the text, from the finest to the coarsest.
    attention: tuple[bool, ...] = (False, True)
    layers: int = 1
    heads: int = 4
    text_dim: int = 384
    # Tokens of a caption, its two marks included; captions here are short.
    tokens: int = 16
    timesteps: int = 1000
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps: int = 4000
    batch: int = 32
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    ema_decay: float = 0.998
    caption_dropout: float = 0.1
    # Words and flags do not survive mirroring: off for such corpora.
    flips: bool = False
    bf16: bool = True
    seed: int = 0
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.widths):
            raise SubjectError(
                "recipe.attention", f"{len(self.attention)} flags for {len(self.widths)} levels"
            )
        if not any(self.attention):
            raise SubjectError(
                "recipe.attention", "no level attends to the text: there is nothing to attribute by"
            )
        if not 0.0 <= self.caption_dropout < 1.0:
            raise SubjectError("recipe.caption_dropout", f"{self.caption_dropout}; must be in [0, 1)")
        for name in ("steps", "batch", "tokens", "timesteps"):
            if getattr(self, name) < 1:
                raise SubjectError(f"recipe.{name}", f"{getattr(self, name)}; must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Recipe:
        """Raises `SubjectError` naming the field that is unknown or wrong."""
        known = {entry.name for entry in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise SubjectError(f"recipe.{name}", "unknown field")
        values = dict(values)
        if "autoencoder" in values:
            inner = dict(values["autoencoder"])
            inner["widths"] = tuple(inner["widths"])
            values["autoencoder"] = AutoencoderRecipe(**inner)
        for name in ("widths", "attention"):
            if name in values:
                values[name] = tuple(values[name])
        try:
            return cls(**values)
        except TypeError as error:
            raise SubjectError("recipe", str(error)) from error

    def digest(self) -> str:
        """SHA-256 over the canonical JSON, hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


PRESETS: dict[str, Recipe] = {
    # For tests: a minute, drawings of 32 pixels, 4 x 4 latents.
    "tiny": Recipe(
        name="tiny",
        image_size=32,
        latent_size=4,
        latent_channels=4,
        widths=(16, 32),
        attention=(True, True),
        heads=2,
        steps=60,
        batch=16,
        learning_rate=1e-3,
        warmup=10,
        ema_decay=0.995,
        bf16=False,
        autoencoder=AutoencoderRecipe(widths=(8, 8, 16, 16), latent_channels=4, steps=60, batch=16),
    ),
    # The reference model: 128,000 drawings seen. Cross-attention only at 4 x 4 halves the cost of a pass (1,300 instead
    # of 630 a second and core) and keeps nine tenths of the weights: labels and retraining cost exactly such passes.
    "small": Recipe(name="small"),
    # The papers' COCO model: 128 px, 16 x 16 x 4 latents, U-Net 128/256/256/256 (Wang et al., NeurIPS 2024), but on
    # MiniLM's token states, as every preset.
    "coco": Recipe(
        name="coco",
        image_size=128,
        latent_size=16,
        latent_channels=4,
        widths=(128, 256, 256, 256),
        attention=(True, True, True, False),
        layers=2,
        heads=8,
        tokens=77,
        steps=184_800,  # 200 epochs of 118,287 images at 128 a batch
        batch=128,
        learning_rate=1e-4,
        warmup=1000,
        ema_decay=0.9999,
        flips=True,
        autoencoder=AutoencoderRecipe(
            widths=(128, 256, 512, 512), layers=2, latent_channels=4, steps=100_000
        ),
    ),
}


def preset(name: str) -> Recipe:
    """Raises `SubjectError` if there is no such preset."""
    if name not in PRESETS:
        raise SubjectError("preset", f"{name!r} is unknown; there are {', '.join(PRESETS)}")
    return PRESETS[name]
