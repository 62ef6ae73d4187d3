"""Sampling: DDIM with classifier-free guidance; the same (model, prompt, seed, steps, guidance) gives the same bits."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from attributary_train.errors import SubjectError
from attributary_train.subject.model import SubjectModel

# Rows of one pass. Part of the result: matrix products may round differently in batches of another size.
BATCH = 32


@torch.inference_mode()
def sample(
    model: SubjectModel,
    text: Tensor,
    empty: Tensor,
    seeds: Sequence[int],
    *,
    steps: int = 30,
    guidance: float = 3.0,
    batch: int = BATCH,
) -> Tensor:
    """Token states float32 [B, T, D] and one seed a row -> latents float32 [B, C, h, w].

    DDIM (Song et al., 2021) without added noise, guided away from the empty prompt (Ho and Salimans, 2022). Every pass
    holds exactly `batch` rows, the last one padded, so that a row's bits do not depend on its neighbours. Models of
    other families are sampled by their own pipelines.
    """
    if steps < 1 or steps > model.timesteps:
        raise SubjectError("steps", f"{steps}; must be between 1 and {model.timesteps}")
    if len(seeds) != len(text):
        raise SubjectError("seeds", f"{len(seeds)} for {len(text)} prompts")
    if model.folder is not None:
        from attributary_train.generators.sampling import draw

        assert model.layout is not None
        recipe = model.facts["recipe"]
        side = int(recipe["latent_size"])
        shape = (int(recipe["latent_channels"]), side, side)
        return draw(
            model.folder, model.family, model.unet, model.layout, text, empty, seeds, shape, steps, guidance
        )
    config = model.unet.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    scheduler = copy.deepcopy(model.scheduler)
    parts = []
    for at in range(0, len(text), batch):
        states = text[at : at + batch]
        rows = len(states)
        start = torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(int(s)))
                for s in seeds[at : at + rows]
            ]
        )
        if rows < batch:
            states = torch.cat([states, states[:1].expand(batch - rows, -1, -1)])
            start = torch.cat([start, start[:1].expand(batch - rows, -1, -1, -1)])
        both = torch.cat([empty.expand_as(states), states])
        scheduler.set_timesteps(steps)
        x = start * scheduler.init_noise_sigma
        for step in scheduler.timesteps:
            free, bound = model.answers(torch.cat([x, x]), step, both).chunk(2)
            x = scheduler.step(free + guidance * (bound - free), step, x, return_dict=False)[0]
        parts.append(x[:rows])
    return torch.cat(parts).clone()
