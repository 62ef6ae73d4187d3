"""Token states for cross-attention: MiniLM with its last hidden states, as diffusers' pipelines read a text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, BertModel

from attributary_train.towers.text import MiniLM, minilm_directory

DIM = 384


def text_encoder() -> BertModel:
    """MiniLM from its installed package; diffusers pipelines pass it the attention mask because its config says so."""
    model: BertModel = MiniLM().bert
    model.config.use_attention_mask = True
    frozen: BertModel = model.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    return frozen


def tokenizer(tokens: int) -> Any:
    """MiniLM's tokenizer, cutting and padding to `tokens`."""
    return AutoTokenizer.from_pretrained(str(minilm_directory()), model_max_length=tokens)


def token_states(prompts: Sequence[str], tokens: int, batch: int = 256) -> Tensor:
    """Prompts -> float32 [B, tokens, 384]; an empty prompt is allowed: it is what guidance steers away from."""
    return states_of(text_encoder(), tokenizer(tokens), prompts, tokens, batch)


@torch.inference_mode()
def states_of(model: Any, cut: Any, prompts: Sequence[str], tokens: int, batch: int = 256) -> Tensor:
    """Last hidden states of an encoder, float32 [B, tokens, D], as diffusers' Stable Diffusion pipeline takes them."""
    masked = getattr(model.config, "use_attention_mask", False)
    parts = []
    for at in range(0, len(prompts), batch):
        words = cut(
            list(prompts[at : at + batch]),
            padding="max_length",
            max_length=tokens,
            truncation=True,
            return_tensors="pt",
        )
        mask = {"attention_mask": words.attention_mask} if masked else {}
        parts.append(model(words.input_ids, **mask)[0])
    return torch.cat(parts).clone()
