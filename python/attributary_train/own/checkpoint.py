"""A checkpoint looked at before the road is taken: do its parts fit, and what does one pass cost?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from attributary_train.errors import OwnError, SubjectError
from attributary_train.subject.adopt import inspect

from .road import Request

# A pass of a few rows that takes less is timed again with the rows of a label's pass.
_SHORT_S, _MANY = 0.2, 128
# Bytes of the packaged text tower, where a checkpoint has no CLIP.
_MINILM = 90_000_000


@dataclass(frozen=True)
class Measured:
    """seconds and flops of one row through the denoiser, one thread; latent [C, h, w]; text [T, D]; bytes: of the
    checkpoint's parts, and of the text tower twice, which student and bundle take along."""

    seconds: float
    flops: float
    latent: tuple[int, int, int]
    text: tuple[int, int]
    bytes: int


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
    # The counter asks for the graph of a parameter that is handed to a part, as Sana's transformer does.
    model.unet.requires_grad_(False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            with FlopCounterMode(display=False) as counter:
                model.answers(noisy, at, states)
            seconds = _clock(lambda: model.answers(noisy, at, states))
            if seconds < _SHORT_S:
                # As labels batch it: a small denoiser does many rows in the time of a few.
                many = [part.repeat(_MANY // batch, *[1] * (part.ndim - 1)) for part in (noisy, at, states)]
                seconds = _clock(lambda: model.answers(*many)) * batch / _MANY
    finally:
        torch.set_num_threads(threads)
    weights = _bytes(request.checkpoint)
    clip = "clip" in (request.checkpoint / "text_encoder" / "config.json").read_text()
    weights += 2 * (_bytes(request.checkpoint / "text_encoder") if clip else _MINILM)
    return Measured(seconds / batch, counter.get_total_flops() / batch, latent, text, weights)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _clock(work: Callable[[], object], least: int = 2) -> float:
    """Core seconds of the fastest of a few runs: what others do on the machine is not counted."""
    best = float("inf")
    for _ in range(least):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best
