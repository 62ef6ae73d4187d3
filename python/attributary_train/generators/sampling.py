"""Queries of any family: its own pipeline draws them, from conditions that are known already."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attributary_train.errors import SubjectError

from .conditions import Layout
from .counting import count_rows
from .family import Family
from .latents import as_tokens, factor_of, from_tokens
from .reader import TEXT_PARTS, open_parts

BATCH = 8


@torch.inference_mode()
def draw(
    folder: Path, family: Family, module: Any, layout: Layout, text: Tensor, empty: Tensor, seeds: Sequence[int],
    shape: tuple[int, int, int], steps: int, guidance: float, batch: int = BATCH,
) -> Tensor:  # fmt: skip
    """Packed conditions [B, rows, D] and one seed a row -> latents float32 [B, C, h, w], by the pipeline's sampler.

    Every pass holds `batch` prompts, the last one padded, so that a row's bits do not depend on its neighbours.
    """
    SubjectError.if_below(1, steps=steps)
    if len(seeds) != len(text):
        raise SubjectError("seeds", f"{len(seeds)} for {len(text)} prompts")
    pipeline = open_parts(folder, TEXT_PARTS, **{family.part: module})
    size = shape[1] * factor_of(pipeline.vae)
    scheduler, parts = pipeline.scheduler, []
    for at in range(0, len(text), batch):
        rows = len(text[at : at + batch])
        pick = [at + min(row, rows - 1) for row in range(batch)]
        start = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(int(seeds[row]))) for row in pick]
        )
        pipeline.scheduler = copy.deepcopy(scheduler)
        words = _words(family, layout, text[pick], empty.expand(batch, *empty.shape))
        packed = as_tokens(start) if family.name == "flux" else start
        found = pipeline(
            **words, height=size, width=size, num_inference_steps=steps, latents=packed, output_type="latent",
            generator=[torch.Generator().manual_seed(int(seeds[row])) for row in pick],
            **_guided(family, guidance),
        ).images  # fmt: skip
        count_rows(batch * steps * (1 if family.distilled else 2))
        parts.append((from_tokens(found, shape) if family.name == "flux" else found)[:rows].float())
    return torch.cat(parts).clone()


def _guided(family: Family, guidance: float) -> dict[str, Any]:
    more: dict[str, Any] = {"guidance_scale": guidance}
    if family.name in ("sana", "pixart"):
        # Else the side asked for would be moved to one of a table.
        more["use_resolution_binning"] = False
    return more


def _words(family: Family, layout: Layout, text: Tensor, empty: Tensor) -> dict[str, Any]:
    """Conditions in the words of the pipelines' arguments."""
    conditional, unconditional = layout.unpack(text), layout.unpack(empty)
    words: dict[str, Any] = {"prompt": None, "prompt_embeds": conditional.states}
    if conditional.pooled is not None:
        words["pooled_prompt_embeds"] = conditional.pooled
    if conditional.mask is not None:
        words["prompt_attention_mask"] = conditional.mask
    if family.distilled:
        return words
    words["negative_prompt_embeds"] = unconditional.states
    if unconditional.pooled is not None:
        words["negative_pooled_prompt_embeds"] = unconditional.pooled
    if unconditional.mask is not None:
        words["negative_prompt"] = None
        words["negative_prompt_attention_mask"] = unconditional.mask
    return words
