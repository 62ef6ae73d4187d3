"""Would a compiled kernel help the teacher's inner loop? A profile of a stand-in, against the arithmetic floor.

    python benchmarks/teacher_inner_loop.py [--json] [--save]

The inner loop of the first-order teacher (AbU+, linearised): per-example gradients of the cross-attention K and V
weights, and their inner products with the queries' preconditioned gradients (EK-FAC). There is no teacher in this
repository yet, so that the model is a stand-in with a small UNet's shapes: 8 blocks of self-attention,
cross-attention over 32 text tokens of 384 dimensions, and an MLP, at 64 latent positions. The question for a fused
kernel is how far torch is above the floor: the loop's floating-point operations at the machine's measured rate of
matrix products of the same kind of shape.
"""

from __future__ import annotations

import os
import time

os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from common import aim, arguments, emit, interleaved
from torch import Tensor, nn

BATCH, TOKENS, TEXT, POSITIONS, QUERIES = 32, 32, 384, 64, 16
WIDTHS = (64, 64, 128, 128, 128, 128, 64, 64)


class CrossAttention(nn.Module):
    """Attention of image positions over text tokens; K and V read the text, as attn2 of diffusers does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 32
        self.to_q, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.to_k, self.to_v = nn.Linear(TEXT, width, bias=False), nn.Linear(TEXT, width, bias=False)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Return the attended positions, [B, P, width]."""

        def split(y: Tensor) -> Tensor:
            return y.view(*y.shape[:-1], self.heads, -1).transpose(1, 2)

        attended = nn.functional.scaled_dot_product_attention(
            split(self.to_q(x)), split(self.to_k(text)), split(self.to_v(text))
        )
        out: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Self-attention, cross-attention, MLP; the width may change on the way in."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(before, width)
        self.own = nn.MultiheadAttention(width, width // 32, batch_first=True)
        self.cross = CrossAttention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Return [B, P, width]."""
        x = self.enter(x)
        y = self.norms[0](x)
        x = x + self.own(y, y, y, need_weights=False)[0]
        x = x + self.cross(self.norms[1](x), text)
        out: Tensor = x + self.mlp(self.norms[2](x))
        return out


class Recorder:
    """Keeps the inputs and output gradients of every K and V layer."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.layers: list[nn.Linear] = []
        for block in blocks:
            self.layers += [block.cross.to_k, block.cross.to_v]
        self.inputs: dict[int, Tensor] = {}
        self.gradients: dict[int, Tensor] = {}
        for index, layer in enumerate(self.layers):
            layer.register_forward_hook(lambda _, x, y, i=index: self.keep(i, x[0], y))

    def keep(self, index: int, x: Tensor, y: Tensor) -> None:
        """Store one layer's input, and its output's gradient when it comes."""
        self.inputs[index] = x.detach()
        if y.requires_grad:
            hook = partial(self.gradients.__setitem__, index)
            y.register_hook(hook)  # type: ignore[no-untyped-call]


def inner_products(recorder: Recorder, preconditioned: list[Tensor]) -> Tensor:
    """Return scores [B, Q]: <per-example gradient, the query's preconditioned gradient>, summed over layers.

    The queries' gradients are rotated back to the plain basis once, so that nothing is rotated per example.
    """
    scores = torch.zeros(BATCH, QUERIES)
    for index, wanted in enumerate(preconditioned):
        gradient = torch.einsum("bto,bti->boi", recorder.gradients[index], recorder.inputs[index])
        scores.addmm_(gradient.flatten(1), wanted.T)
    return scores


def flops() -> tuple[float, float]:
    """Return the operations of the per-example gradients and of the inner products."""
    outer = sum(2 * 2.0 * BATCH * TOKENS * TEXT * width for width in WIDTHS)
    inner = sum(2 * 2.0 * BATCH * TEXT * width * QUERIES for width in WIDTHS)
    return outer, inner


def main() -> None:
    options = arguments("Profile the teacher's inner loop on a stand-in.").parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    blocks = [Block(before, width) for before, width in zip((64, *WIDTHS), WIDTHS, strict=False)]
    recorder = Recorder(blocks)
    latents, text = torch.randn(BATCH, POSITIONS, 64), torch.randn(BATCH, TOKENS, TEXT)
    preconditioned = [torch.randn(QUERIES, layer.weight.numel()) * 1e-3 for layer in recorder.layers]

    def forward() -> Tensor:
        x = latents
        for block in blocks:
            x = block(x, text)
        return x.square().mean(dim=(1, 2)).sum()

    def forward_backward() -> None:
        # Only the K and V weights' outputs need gradients; autograd still walks the whole model.
        torch.autograd.backward(forward())

    forward_backward()
    # The rate that torch reaches on the loop's own kind of product, and on a large square one.
    tall, wide = torch.randn(BATCH, 128, TOKENS), torch.randn(BATCH, TOKENS, TEXT)
    square = torch.randn(512, 512)
    stacked = torch.randn(BATCH, TEXT * 128)
    weights = torch.randn(QUERIES, TEXT * 128)
    times = interleaved(
        {
            "forward, no gradients": lambda: torch.no_grad()(forward)(),
            "forward and backward": forward_backward,
            "inner loop": lambda: inner_products(recorder, preconditioned),
            "batched product of its shape": lambda: torch.bmm(tall, wide),
            "square product, 512": lambda: torch.mm(square, square),
            "thin product of its shape": lambda: stacked @ weights.T,
        },
        rounds=15,
        clock=time.thread_time,
    )
    rate = 2.0 * 512**3 / times["square product, 512"]
    shaped = 2.0 * BATCH * 128 * TOKENS * TEXT / times["batched product of its shape"]
    outer, inner = flops()
    floor = (outer + inner) / rate
    loop, step = times["inner loop"], times["forward and backward"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        inner_products(recorder, preconditioned)
    profiled = sorted(profile.key_averages(), key=lambda e: -e.self_cpu_time_total)[:5]
    table: list[dict[str, Any]] = [
        {"phase": name, "ms a batch": seconds * 1e3, "of the step": seconds / (step + loop)}
        for name, seconds in times.items()
        if name in ("forward, no gradients", "forward and backward", "inner loop")
    ]
    total = sum(e.self_cpu_time_total for e in profile.key_averages())
    operations = [{"operation": e.key, "of the inner loop": e.self_cpu_time_total / total} for e in profiled]
    rates = {"square 512": rate / 1e9, "batched, the loop's shape": shaped / 1e9}
    rates["inner loop as a whole"] = (outer + inner) / loop / 1e9
    above = loop / floor
    whole = (step + loop) / (step + floor)
    aims = [
        aim(
            "inner loop over its arithmetic floor",
            above,
            2,
            "times",
            above >= 2,
            "2 or more speaks for a kernel",
        ),
        aim(
            "whole step, were the loop at its floor",
            whole,
            2,
            "times",
            whole >= 2,
            "what a kernel could gain",
        ),
    ]
    config = {"batch": BATCH, "text tokens": TOKENS, "queries": QUERIES, "widths": WIDTHS, "threads": 1}
    results = {"phases": table, "inner loop, torch.profiler": operations}
    results["GFLOP/s"] = [{"product": name, "rate": number} for name, number in rates.items()]
    emit("teacher_inner_loop", config, results, aims, options.json)


if __name__ == "__main__":
    main()
