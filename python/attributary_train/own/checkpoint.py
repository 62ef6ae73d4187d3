"""A checkpoint looked at before the road is taken: do its parts fit, and what does one pass cost?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from attributary_train.subject.adopt import inspect
from attributary_train.subject.errors import SubjectError

from .errors import OwnError
from .road import Request


@dataclass(frozen=True)
class Measured:
    """seconds and flops of one row through the U-Net, one thread; latent [C, h, w]; text [T, D]."""

    seconds: float
    flops: float
    latent: tuple[int, int, int]
    text: tuple[int, int]


def measured(request: Request, batch: int = 4) -> Measured:
    """Open every part and run a few rows; raises `OwnError` with what `subject adopt` would refuse."""
    assert request.checkpoint is not None
    try:
        unet, recipe = inspect(request.checkpoint, request.image_size)
    except SubjectError as error:
        raise OwnError("--checkpoint", str(error)) from error
    latent = (recipe.latent_channels, recipe.latent_size, recipe.latent_size)
    text = (recipe.tokens, recipe.text_dim)
    rows, states, at = (
        torch.zeros(batch, *latent),
        torch.zeros(batch, *text),
        torch.zeros(batch, dtype=torch.int64),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            with FlopCounterMode(display=False) as counter:
                unet(rows, at, states)
            seconds = _clock(lambda: unet(rows, at, states))
    finally:
        torch.set_num_threads(threads)
    return Measured(seconds / batch, counter.get_total_flops() / batch, latent, text)


def _clock(work: Callable[[], object], least: int = 2) -> float:
    """Seconds of the fastest of a few runs."""
    best = float("inf")
    for _ in range(least):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best
