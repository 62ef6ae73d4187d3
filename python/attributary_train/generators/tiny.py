"""Pipelines of every family with random weights, small enough for a test or to be trained in a minute on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from attributary_train.errors import SubjectError

TOKENS, DIM = 24, 32
# Pixels of a latent's side: autoencoders of three levels.
FACTOR = 4
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def tiny_pipeline(
    family: str,
    *,
    image_size: int = 32,
    words: Sequence[str] = (),
    prediction: str = "epsilon",
    seed: int = 0,
) -> Any:
    """A pipeline of diffusers with random weights; `words` is what its T5 or Gemma tokenizer knows.

    Raises `SubjectError` for a family that is not known.
    """
    makers = {
        "stable-diffusion": _stable, "sdxl": _sdxl, "sd3": _sd3, "flux": _flux, "sana": _sana, "pixart": _pixart,
    }  # fmt: skip
    if family not in makers:
        raise SubjectError("family", f"{family!r}; there are {', '.join(makers)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = makers[family](image_size // FACTOR, tuple(words), prediction)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    made.set_progress_bar_config(disable=True)
    return made


def _stable(side: int, words: tuple[str, ...], prediction: str) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=_autoencoder(side), text_encoder=_clip(CLIPTextModel), tokenizer=_clip_words(), unet=_unet(side, DIM),
        scheduler=diffusers.DDIMScheduler(**_BETAS, clip_sample=False, steps_offset=1, prediction_type=prediction),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _sdxl(side: int, words: tuple[str, ...], prediction: str) -> Any:
    unet = _unet(
        side, 2 * DIM, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=DIM + 6 * 8,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=_autoencoder(side), unet=unet, text_encoder=_clip(CLIPTextModel), tokenizer=_clip_words(),
        text_encoder_2=_clip(CLIPTextModelWithProjection), tokenizer_2=_clip_words(),
        scheduler=diffusers.EulerDiscreteScheduler(**_BETAS, steps_offset=1, prediction_type=prediction),
        add_watermarker=False,
    )  # fmt: skip


def _sd3(side: int, words: tuple[str, ...], prediction: str) -> Any:
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=side, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=4,
            joint_attention_dim=2 * DIM, caption_projection_dim=64, pooled_projection_dim=2 * DIM, out_channels=4,
            pos_embed_max_size=side,
        ),
        vae=_autoencoder(side, shift_factor=0.1), text_encoder=_clip(CLIPTextModelWithProjection),
        tokenizer=_clip_words(), text_encoder_2=_clip(CLIPTextModelWithProjection), tokenizer_2=_clip_words(),
        text_encoder_3=_t5(2 * DIM), tokenizer_3=_word_tokens(words),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def _flux(side: int, words: tuple[str, ...], prediction: str) -> Any:
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=4,
            joint_attention_dim=DIM, pooled_projection_dim=DIM, axes_dims_rope=(4, 6, 6),
        ),
        vae=_autoencoder(side, shift_factor=0.1), text_encoder=_clip(CLIPTextModel), tokenizer=_clip_words(),
        text_encoder_2=_t5(DIM), tokenizer_2=_word_tokens(words),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def _sana(side: int, words: tuple[str, ...], prediction: str) -> Any:
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(_vocabulary(words)), hidden_size=DIM, intermediate_size=DIM, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, pad_token_id=0, eos_token_id=1, bos_token_id=2,
        )
    )  # fmt: skip
    widths = (16, 32, 32)
    return diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=16, num_layers=2,
            num_cross_attention_heads=4, cross_attention_head_dim=16, cross_attention_dim=64, caption_channels=DIM,
            sample_size=side,
        ),
        vae=diffusers.AutoencoderDC(
            latent_channels=4, attention_head_dim=8, encoder_block_out_channels=widths,
            decoder_block_out_channels=widths, encoder_layers_per_block=(1,) * 3, decoder_layers_per_block=(1,) * 3,
            encoder_qkv_multiscales=((),) * 3, decoder_qkv_multiscales=((),) * 3,
            encoder_block_types=("ResBlock",) * 3, decoder_block_types=("ResBlock",) * 3,
            downsample_block_type="conv", upsample_block_type="interpolate",
        ),
        text_encoder=encoder, tokenizer=_word_tokens(words),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def _pixart(side: int, words: tuple[str, ...], prediction: str) -> Any:
    return diffusers.PixArtSigmaPipeline(
        transformer=diffusers.PixArtTransformer2DModel(
            num_attention_heads=4, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2,
            cross_attention_dim=64, caption_channels=DIM, sample_size=side, patch_size=1, norm_num_groups=4,
        ),
        vae=_autoencoder(side), text_encoder=_t5(DIM), tokenizer=_word_tokens(words),
        scheduler=diffusers.DPMSolverMultistepScheduler(**_BETAS, prediction_type=prediction),
    )  # fmt: skip


def _unet(side: int, dim: int, **more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=side, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=8, cross_attention_dim=dim,
        attention_head_dim=4, **more,
    )  # fmt: skip


def _autoencoder(side: int, **more: Any) -> Any:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 24, 32), norm_num_groups=8, sample_size=side * FACTOR, latent_channels=4,
        mid_block_add_attention=False, **more,
    )  # fmt: skip


def _clip_words() -> CLIPTokenizer:
    pieces = [*_LETTERS, *(f"{x}</w>" for x in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: at for at, word in enumerate(pieces)}, merges=[], model_max_length=TOKENS
    )


def _clip(kind: Any) -> Any:
    size = 2 * len(_LETTERS) + 2
    return kind(
        CLIPTextConfig(
            vocab_size=size, hidden_size=DIM, projection_dim=DIM, num_attention_heads=2, num_hidden_layers=2,
            intermediate_size=2 * DIM, max_position_embeddings=TOKENS, bos_token_id=size - 2, eos_token_id=size - 1,
        )
    )  # fmt: skip


def _t5(dim: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=512, d_model=dim, d_kv=16, d_ff=2 * dim, num_layers=1, num_heads=2, pad_token_id=0
        )
    )


def _vocabulary(words: Sequence[str]) -> dict[str, int]:
    known = sorted({word for text in words for word in text.lower().split()})[:500]
    return {word: at for at, word in enumerate(["<pad>", "</s>", "<bos>", "<unk>", *known])}


def _word_tokens(words: Sequence[str]) -> PreTrainedTokenizerFast:
    tokens = Tokenizer(models.WordLevel(_vocabulary(words), unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokens, model_max_length=TOKENS, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        bos_token="<bos>", padding_side="right",
    )  # fmt: skip
