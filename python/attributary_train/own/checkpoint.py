"""A checkpoint looked at before the road is taken: do its parts fit, and what does one pass cost?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from attributary_train.subject.adopt import inspect
from attributary_train.subject.errors import SubjectError

from .errors import OwnError
from .plan import clock
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
        model = inspect(request.checkpoint, request.image_size, request.lora)
    except SubjectError as error:
        raise OwnError("--checkpoint", str(error)) from error
    recipe = model.facts["recipe"]
    latent = (int(recipe["latent_channels"]), int(recipe["latent_size"]), int(recipe["latent_size"]))
    rows = model.layout.rows if model.layout is not None else int(recipe["tokens"])
    text = (rows, int(recipe["text_dim"]))
    noisy, states = torch.zeros(batch, *latent), torch.zeros(batch, *text)
    at = torch.zeros(batch, dtype=torch.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            with FlopCounterMode(display=False) as counter:
                model.answers(noisy, at, states)
            seconds = clock(lambda: model.answers(noisy, at, states))
    finally:
        torch.set_num_threads(threads)
    return Measured(seconds / batch, counter.get_total_flops() / batch, latent, text)
