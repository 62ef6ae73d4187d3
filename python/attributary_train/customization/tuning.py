"""Customization of a model toward an exemplar: keys and values of cross-attention, and one new word."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from attributary_train.customization.words import States
from attributary_train.errors import CustomizationError
from attributary_train.subject.checkpoint import cross_attention
from attributary_train.subject.model import SubjectModel


@dataclass(frozen=True)
class TuneSettings:
    """How a model is tuned. The weights that move are Custom Diffusion's (Kumari et al., CVPR 2023, section 3.2)."""

    steps: int = 70
    rows: int = 8  # exemplar rows of a step
    prior_rows: int = 8  # rows of the training set that keep the model from forgetting (section 3.1)
    prior_weight: float = 0.6
    learning_rate: float = 3e-3
    word_learning_rate: float = 3e-2
    warmup: int = 5
    caption_dropout: float = 0.1

    @classmethod
    def for_styles(cls, steps: int = 120) -> TuneSettings:
        """Toward a hand rather than a thing: more steps, larger ones, less of what was known."""
        return cls(steps, prior_weight=0.15, learning_rate=5e-3, word_learning_rate=5e-2)

    def __post_init__(self) -> None:
        CustomizationError.if_below(1, "tuning.", steps=self.steps, rows=self.rows, warmup=self.warmup)
        if self.prior_rows < 0:
            raise CustomizationError("tuning.prior_rows", f"{self.prior_rows}; must not be negative")
        if not 0.0 <= self.caption_dropout < 1.0:
            raise CustomizationError("tuning.caption_dropout", f"{self.caption_dropout}; must be in [0, 1)")


@dataclass(frozen=True)
class Rows:
    """What is noised and asked for: latents float32 [N, C, h, w] and, a row each, their prompts' states."""

    latents: Tensor
    text: States


@dataclass(frozen=True)
class Tuned:
    """What tuning changed: the moved weights by name, the new word float32 [D], the losses of first and last steps."""

    weights: dict[str, Tensor]
    word: Tensor
    first_loss: float
    last_loss: float

    def digest(self) -> str:
        """SHA-256 over names and bytes of the moved weights and of the word, hexadecimal."""
        total = hashlib.sha256()
        for name, value in sorted([*self.weights.items(), ("word", self.word)]):
            total.update(name.encode())
            total.update(value.contiguous().numpy().tobytes())
        return total.hexdigest()


def tune(
    model: SubjectModel,
    exemplar: Rows,
    prior: Rows,
    empty: Tensor,
    word: Tensor,
    settings: TuneSettings,
    seed: int,
) -> Tuned:
    """Tune keys, values and the new word toward `exemplar`; the model itself is left as it was.

    A step holds `rows` exemplar rows and `prior_rows` rows of `prior`; the loss is the subject's own, the mean of the
    first plus `prior_weight` times the mean of the second. Rows' timesteps are spread evenly over the schedule
    (stratified), which quiets a gradient of so few rows. `empty` [T, D]: states of the empty prompt; `word` [D]: where
    the new word starts. Raises `CustomizationError` if the loss stops being finite.
    """
    names = [f"{name}.weight" for name in cross_attention(model.unet)]
    known = dict(model.unet.named_parameters())
    moved = {name: known[name] for name in names}
    before = {name: value.detach().clone() for name, value in moved.items()}
    learned = word.detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam(
        [
            {"params": list(moved.values()), "lr": settings.learning_rate},
            {"params": [learned], "lr": settings.word_learning_rate},
        ],
    )
    rates = [settings.learning_rate, settings.word_learning_rate]
    stream = torch.Generator().manual_seed(seed)
    losses = []
    try:
        for parameter in moved.values():
            parameter.requires_grad_(True)
        for step in range(settings.steps):
            share = min(1.0, (step + 1) / settings.warmup) * (1.0 - step / settings.steps)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * share
            own, kept = _loss(model, exemplar, prior, empty, learned, settings, stream)
            loss = own + settings.prior_weight * kept
            if not torch.isfinite(loss):
                raise CustomizationError("loss", f"not finite at step {step}; lower the learning rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(own.item())
        tenth = max(1, settings.steps // 10)
        return Tuned(
            {name: value.detach().clone() for name, value in moved.items()},
            learned.detach().clone(),
            sum(losses[:tenth]) / tenth,
            sum(losses[-tenth:]) / tenth,
        )
    finally:
        with torch.no_grad():
            for name, parameter in moved.items():
                parameter.requires_grad_(False)
                parameter.grad = None
                parameter.copy_(before[name])


def _loss(
    model: SubjectModel,
    exemplar: Rows,
    prior: Rows,
    empty: Tensor,
    word: Tensor,
    settings: TuneSettings,
    stream: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Mean loss of the exemplar's rows and of the training set's."""
    first = torch.randint(0, len(exemplar.latents), (settings.rows,), generator=stream)
    second = torch.randint(0, max(1, len(prior.latents)), (settings.prior_rows,), generator=stream)
    latents = torch.cat([exemplar.latents[first], prior.latents[second]])
    text = torch.cat([exemplar.text.take(first).with_word(word), prior.text.take(second).states])
    times = torch.cat([_spread(len(part), model.timesteps, stream) for part in (first, second)])
    noise = torch.randn(latents.shape, generator=stream)
    dropped = torch.rand(len(latents), generator=stream) < settings.caption_dropout
    text = torch.where(dropped[:, None, None], empty, text)
    losses = model.losses(latents, noise, times, text)
    own = losses[: settings.rows].mean()
    return own, losses[settings.rows :].mean() if settings.prior_rows else own.detach() * 0.0


def _spread(rows: int, timesteps: int, stream: torch.Generator) -> Tensor:
    """One timestep a row, each from a stretch of its own, int64 [rows], in random order."""
    if rows == 0:
        return torch.empty(0, dtype=torch.int64)
    places = torch.randperm(rows, generator=stream) + torch.rand(rows, generator=stream)
    return (places * (timesteps / rows)).long().clamp(max=timesteps - 1)


@contextmanager
def applied(model: SubjectModel, tuned: Tuned) -> Iterator[SubjectModel]:
    """The model with tuned weights in place, and as it was afterwards."""
    known = dict(model.unet.named_parameters())
    before = {name: known[name].detach().clone() for name in tuned.weights}
    with torch.no_grad():
        for name, value in tuned.weights.items():
            known[name].copy_(value)
    try:
        yield model
    finally:
        with torch.no_grad():
            for name, value in before.items():
                known[name].copy_(value)
