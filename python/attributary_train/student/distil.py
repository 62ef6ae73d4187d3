"""Distilling a fitted student into the compact one: pictures and prompts in, the big student's vectors out.

The big student reads the prompt when the compact one must do without: what a picture alone says is learned from
what was known when it was made.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from attributary_train.errors import StudentError

from .compact import Compact
from .losses import soft_log
from .nowhere import foreign_pictures, nowhere


@dataclass(frozen=True)
class Lessons:
    """What is learned from. pixels: uint8 [N, S, S, 3] with ids, mask int64 [N, T] and target float32 [N, D], the big
    student's vectors; prompt_ids, prompt_mask, prompt_target: prompts alone, with what the big student makes of them;
    items: float32 [M, D], the vectors that are indexed."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    target: Tensor
    prompt_ids: Tensor
    prompt_mask: Tensor
    prompt_target: Tensor
    items: Tensor


@dataclass(frozen=True)
class DistilSettings:
    """epochs over the pictures; batch: pictures of a step, beside `prompts` prompts; power: of the cosine where
    distributions over the items are compared; ranking: weight of that comparison; foreign: pictures of a step that no
    generator made, with a prompt and without, taught to be near nothing (0: none)."""

    epochs: int = 12
    batch: int = 64
    prompts: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    power: float = 2.0
    ranking: float = 0.2
    foreign: int = 16
    seed: int = 0


def distil(
    student: Compact,
    lessons: Lessons,
    settings: DistilSettings,
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
    *,
    digest: str = "",
) -> Compact:
    """Train; a checkpoint an epoch in `folder`, from which a killed run goes on with the same numbers.

    `digest` says what the lessons are. Raises `StudentError` if the loss is not finite, or if the folder's checkpoint
    was begun with other settings or other lessons.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, steps = folder / "training-state.pt", -(-len(lessons.pixels) // settings.batch)
    optimiser = torch.optim.AdamW(
        student.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=max(2, steps * settings.epochs), pct_start=0.15
    )
    first = 0
    if state.exists():
        kept = _checkpoint(state)
        if kept["settings"] != repr(settings) or kept["shape"] != repr(student.shape):
            raise StudentError(str(state), "was begun with other settings; choose another folder")
        if kept.get("lessons", "") != digest:
            raise StudentError(
                str(state), "was begun with another student, other labels or prompts; choose another folder"
            )
        student.load_state_dict(kept["student"])
        optimiser.load_state_dict(kept["optimiser"])
        schedule.load_state_dict(kept["schedule"])
        first = int(kept["epoch"])
    with torch.random.fork_rng(devices=[]):
        for epoch in range(first, settings.epochs):
            torch.manual_seed(settings.seed * 1_000_003 + epoch)
            mean = _epoch(student, lessons, settings, optimiser, schedule)
            if not math.isfinite(mean):
                raise StudentError("loss", f"not finite in epoch {epoch + 1}")
            say(f"epoch {epoch + 1} of {settings.epochs}: loss {mean:.4f}")
            whole = {
                "settings": repr(settings), "shape": repr(student.shape), "lessons": digest, "epoch": epoch + 1,
                "student": student.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
            }  # fmt: skip
            torch.save(whole, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
    return student.eval()


def _checkpoint(path: Path) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise StudentError(str(path), f"is torn ({error!r}); delete it to begin again") from error
    return kept


def _epoch(
    student: Compact,
    lessons: Lessons,
    settings: DistilSettings,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    student.train()
    total, order, away = 0.0, torch.randperm(len(lessons.pixels)), nowhere(lessons.items)
    batches = order.split(settings.batch)  # type: ignore[no-untyped-call]
    for rows in batches:
        words = torch.randint(0, len(lessons.prompt_ids), (settings.prompts,))
        foreign = foreign_pictures(lessons.pixels[rows], settings.foreign)
        target = lessons.target[rows]
        # Through the network together: batch norms of their own would hide what sets foreign pictures apart.
        seen = student.image(torch.cat([augmented(lessons.pixels[rows]), augmented(foreign)]))
        alone, strange = seen[: len(rows)], seen[len(rows) :]
        prompt = student.text(
            torch.cat([lessons.ids[rows], lessons.prompt_ids[words]]),
            torch.cat([lessons.mask[rows], lessons.prompt_mask[words]]),
        )
        both = student.with_prompt(alone, prompt[: len(rows)])
        loss = (
            _apart(alone, target, lessons.items, settings)
            + _apart(both, target, lessons.items, settings)
            + (1.0 - (prompt[len(rows) :] * lessons.prompt_target[words]).sum(1)).mean()
        )
        if settings.foreign:
            lent = prompt[torch.randint(0, len(prompt), (len(strange),))].detach()
            loss = loss + (2.0 - strange @ away - student.with_prompt(strange, lent) @ away).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        total += float(loss.detach())
    return total / len(batches)


def _apart(found: Tensor, target: Tensor, items: Tensor, settings: DistilSettings) -> Tensor:
    """1 - cosine, plus the divergence of what both say about all items."""
    wanted = (settings.power * soft_log(target @ items.T)).softmax(1)
    log_predicted = (settings.power * soft_log(found @ items.T)).log_softmax(1)
    return (1.0 - (found * target).sum(1)).mean() + settings.ranking * F.kl_div(
        log_predicted, wanted, reduction="batchmean"
    )


def augmented(pixels: Tensor) -> Tensor:
    """Shifts by up to 4 px, contrast, brightness and colour by up to a tenth, noise: uint8 [B, S, S, 3] -> float32."""
    batch, size = len(pixels), pixels.shape[1]
    padded = F.pad(pixels.permute(0, 3, 1, 2).float(), (4, 4, 4, 4), mode="replicate")
    across, down = torch.randint(0, 9, (2, batch))
    rows = down[:, None] + torch.arange(size)
    columns = across[:, None] + torch.arange(size)
    moved = padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    gain = 1.0 + 0.1 * (2.0 * torch.rand(batch, 1, 1, 3) - 1.0)
    shift = 12.0 * (2.0 * torch.rand(batch, 1, 1, 3) - 1.0)
    noise = torch.randn(moved.shape) * 6.0 * torch.rand(batch, 1, 1, 1)
    return ((moved - 127.0) * gain + 127.0 + shift + noise).clamp(0.0, 255.0)
