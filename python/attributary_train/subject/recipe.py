"""Recipes: everything that decides which weights a training run ends with, apart from the data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from attributary_train.errors import SubjectError

# Name of the recipe of a checkpoint that was trained elsewhere: its sizes are known, its training is not.
ADOPTED = "adopted"
# Selections of items of the built-in corpus: `selection.py` says what they are.
SELECTIONS = ("reference", "attribution", "rest", "random")
_LATER = ("items", "captions", "base", "plain_attention")
# Captions that name no single item: a concept is drawn by four or five hands, a category has about thirty items.
_LEVELS = (("concept", 0.4), ("category", 0.35), ("style", 0.25))


@dataclass(frozen=True)
class AutoencoderRecipe:
    """AutoencoderKL: pixels [3, size, size] in [-1, 1] to latents [channels, h, h]; every level but one halves."""

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
    # Which items of the built-in corpus: a name of `selection.SELECTIONS`.
    items: str = "reference"
    # Levels of captions with their shares (`captions.LEVELS`), one drawn a row and step; none: each item has the
    # one caption of `prompts.training_prompt`. `caption_dropout` comes on top.
    captions: tuple[tuple[str, float], ...] = ()
    # SHA-256 of the U-Net that training starts from (`subject train --base`); empty: from chance.
    base: str = ""
    # Attention as two matrix products: a fifth faster on CPUs where a picture has few positions, other last bits.
    plain_attention: bool = False
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
        SubjectError.if_below(
            1, "recipe.", steps=self.steps, batch=self.batch, tokens=self.tokens, timesteps=self.timesteps
        )
        if self.captions and not all(share > 0 for _, share in self.captions):
            raise SubjectError("recipe.captions", f"{self.captions}; every level needs a share above 0")
        if self.items not in SELECTIONS:
            raise SubjectError("recipe.items", f"{self.items!r}; there are {', '.join(SELECTIONS)}")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` is the inverse.

        What came after the first models is left out where it is as it was for them, so that their digests stay.
        """
        values = dataclasses.asdict(self)
        defaults = {entry.name: entry.default for entry in dataclasses.fields(self)}
        return {
            name: value
            for name, value in values.items()
            if name not in _LATER or getattr(self, name) != defaults[name]
        }

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
        if "captions" in values:
            values["captions"] = tuple((str(level), float(share)) for level, share in values["captions"])
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
    # Two stages, so that what the second teaches can be retrained in half a minute: `pretrain` learns from the corpus
    # without the items under study, their near duplicates and what is held out; `finetune` goes on with these items.
    "pretrain": Recipe(
        name="pretrain",
        items="rest",
        captions=_LEVELS,
        steps=1000,
        batch=64,
        learning_rate=1e-3,
        ema_decay=0.99,
        plain_attention=True,
    ),
    "finetune": Recipe(
        name="finetune",
        items="attribution",
        captions=_LEVELS,
        steps=2000,
        batch=64,
        learning_rate=2e-3,
        warmup=20,
        ema_decay=0.99,
        plain_attention=True,
    ),
    # The items of `finetune` from chance (`--autoencoder`): the model under `models/truth/emoji`.
    "scratch": Recipe(
        name="scratch",
        items="attribution",
        captions=(("concept", 0.6), ("category", 0.4)),
        steps=2000,
        batch=64,
        learning_rate=2e-3,
        ema_decay=0.99,
        plain_attention=True,
    ),
    # 10,000 small photographs whose captions are their ten classes: the model under `models/truth/photographs`. Narrow,
    # so that six passes over each take minutes.
    "photographs": Recipe(
        name="photographs",
        items="random",
        image_size=32,
        latent_channels=4,
        widths=(16, 32),
        tokens=8,
        captions=(("concept", 1.0),),
        steps=640,
        batch=96,
        warmup=50,
        ema_decay=0.99,
        plain_attention=True,
        autoencoder=AutoencoderRecipe(widths=(8, 16, 32), latent_channels=4, steps=600, batch=32),
    ),
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


def levels_of(text: str) -> tuple[tuple[str, float], ...]:
    """ "concept=0.25,category=0.75" as a recipe's `captions`; raises `SubjectError` if it cannot be read so."""
    out = []
    for part in text.split(","):
        level, _, share = part.partition("=")
        try:
            out.append((level.strip(), float(share)))
        except ValueError:
            raise SubjectError("captions", f"{part!r}; write LEVEL=SHARE,LEVEL=SHARE") from None
    return tuple(out)
