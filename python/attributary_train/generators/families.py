"""The families that are understood: Stable Diffusion 1 and 2, SDXL, SD3, Flux, Sana, PixArt.

Each reads prompts by its pipeline's own `encode_prompt`, in the form in which diffusers' training scripts pass them on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .conditions import Conditions
from .family import Family
from .latents import as_tokens, from_tokens

CROSS = ("attn2.to_k", "attn2.to_v")
JOINT = ("attn.add_k_proj", "attn.add_v_proj")
# Pixels of a latent's side and of the picture that SDXL is told of: original size, crop, target size.
_PIXELS_A_LATENT = 8


def _stable(unet: nn.Module, noisy: Tensor, values: Tensor, conditions: Conditions) -> Tensor:
    answer: Tensor = unet(noisy, values, conditions.states, return_dict=False)[0]
    return answer


def _read_stable(pipeline: Any, prompts: Sequence[str]) -> Conditions:
    states, _ = pipeline.encode_prompt(list(prompts), "cpu", 1, False)
    return Conditions(states)


def _sdxl(unet: Any, noisy: Tensor, values: Tensor, conditions: Conditions) -> Tensor:
    assert conditions.pooled is not None
    factor = int(getattr(unet, "pixels_a_latent", _PIXELS_A_LATENT))
    height, width = noisy.shape[-2] * factor, noisy.shape[-1] * factor
    ids = torch.tensor([height, width, 0, 0, height, width], dtype=noisy.dtype, device=noisy.device)
    added = {"text_embeds": conditions.pooled, "time_ids": ids.expand(len(noisy), -1)}
    answer: Tensor = unet(noisy, values, conditions.states, added_cond_kwargs=added, return_dict=False)[0]
    return answer


def _read_sdxl(pipeline: Any, prompts: Sequence[str]) -> Conditions:
    states, _, pooled, _ = pipeline.encode_prompt(
        list(prompts), device="cpu", do_classifier_free_guidance=False
    )
    if pipeline.config.force_zeros_for_empty_prompt:
        # What such a model is guided away from, and was shown where a caption was dropped.
        some = torch.tensor([float(bool(prompt.strip())) for prompt in prompts])
        states, pooled = states * some[:, None, None], pooled * some[:, None]
    return Conditions(states, pooled)


def _sd3(transformer: nn.Module, noisy: Tensor, values: Tensor, conditions: Conditions) -> Tensor:
    answer: Tensor = transformer(
        hidden_states=noisy,
        timestep=values,
        encoder_hidden_states=conditions.states,
        pooled_projections=conditions.pooled,
        return_dict=False,
    )[0]
    return answer


def _read_sd3(pipeline: Any, prompts: Sequence[str]) -> Conditions:
    words = list(prompts)
    states, _, pooled, _ = pipeline.encode_prompt(
        words,
        words,
        words,
        device="cpu",
        do_classifier_free_guidance=False,
        max_sequence_length=_most(pipeline),
    )
    return Conditions(states, pooled)


def _flux(transformer: Any, noisy: Tensor, values: Tensor, conditions: Conditions) -> Tensor:
    rows, channels, height, width = noisy.shape
    places = torch.zeros(height // 2, width // 2, 3, device=noisy.device)
    places[..., 1] += torch.arange(height // 2, device=noisy.device)[:, None]
    places[..., 2] += torch.arange(width // 2, device=noisy.device)[None]
    guidance = torch.ones(rows, device=noisy.device) if transformer.config.guidance_embeds else None
    answer: Tensor = transformer(
        hidden_states=as_tokens(noisy),
        timestep=values / 1000,
        guidance=guidance,
        pooled_projections=conditions.pooled,
        encoder_hidden_states=conditions.states,
        txt_ids=torch.zeros(conditions.states.shape[1], 3, device=noisy.device),
        img_ids=places.view(-1, 3),
        return_dict=False,
    )[0]
    return from_tokens(answer, (channels, height, width))


def _read_flux(pipeline: Any, prompts: Sequence[str]) -> Conditions:
    states, pooled, _ = pipeline.encode_prompt(
        list(prompts), list(prompts), device="cpu", max_sequence_length=_most(pipeline)
    )
    return Conditions(states, pooled)


def _sana(transformer: nn.Module, noisy: Tensor, values: Tensor, conditions: Conditions) -> Tensor:
    answer: Tensor = transformer(
        hidden_states=noisy,
        encoder_hidden_states=conditions.states,
        encoder_attention_mask=conditions.mask,
        timestep=values,
        return_dict=False,
    )[0]
    return answer


def _pixart(transformer: Any, noisy: Tensor, values: Tensor, conditions: Conditions) -> Tensor:
    added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if transformer.use_additional_conditions:
        factor = int(getattr(transformer, "pixels_a_latent", _PIXELS_A_LATENT))
        height, width = noisy.shape[-2] * factor, noisy.shape[-1] * factor
        sizes = torch.tensor([float(height), float(width)], device=noisy.device)
        added["resolution"] = sizes.expand(len(noisy), -1)
        added["aspect_ratio"] = (sizes[:1] / sizes[1:]).expand(len(noisy), -1)
    answer: Tensor = transformer(
        noisy,
        encoder_hidden_states=conditions.states,
        encoder_attention_mask=conditions.mask,
        timestep=values,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
    # Those that learn a variance answer with it behind the noise.
    return answer[:, : noisy.shape[1]]


def _read_masked(pipeline: Any, prompts: Sequence[str]) -> Conditions:
    states, mask, _, _ = pipeline.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, device="cpu", max_sequence_length=_most(pipeline)
    )
    return Conditions(states, mask=mask.float())


# Tokens that a pipeline reads at most, by its class; a tokenizer that is made for fewer says so.
_TOKENS = {
    "StableDiffusion3Pipeline": 256,
    "FluxPipeline": 512,
    "SanaPipeline": 300,
    "PixArtSigmaPipeline": 300,
}


def _most(pipeline: Any) -> int:
    known = _TOKENS.get(type(pipeline).__name__, 120)
    for name in ("tokenizer_3", "tokenizer_2", "tokenizer"):
        cut = getattr(pipeline, name, None)
        if cut is not None:
            return min(known, int(cut.model_max_length))
    return known


STABLE = Family(
    "stable-diffusion", ("StableDiffusionPipeline",), "unet", "UNet2DConditionModel", _stable, _read_stable, CROSS
)  # fmt: skip
FAMILIES: tuple[Family, ...] = (
    STABLE,
    Family("sdxl", ("StableDiffusionXLPipeline",), "unet", "UNet2DConditionModel", _sdxl, _read_sdxl, CROSS),
    Family(
        "sd3", ("StableDiffusion3Pipeline",), "transformer", "SD3Transformer2DModel", _sd3, _read_sd3, JOINT,
        flow=True, preconditioned=True,
    ),
    Family(
        "flux", ("FluxPipeline",), "transformer", "FluxTransformer2DModel", _flux, _read_flux, JOINT,
        flow=True, distilled=True,
    ),
    Family(
        "sana", ("SanaPipeline",), "transformer", "SanaTransformer2DModel", _sana, _read_masked, CROSS,
        flow=True, autoencoder="AutoencoderDC",
    ),
    Family(
        "pixart", ("PixArtAlphaPipeline", "PixArtSigmaPipeline"), "transformer", "PixArtTransformer2DModel", _pixart,
        _read_masked, CROSS,
    ),
)  # fmt: skip
BY_NAME = {family.name: family for family in FAMILIES}
BY_PIPELINE = {name: family for family in FAMILIES for name in family.pipelines}
