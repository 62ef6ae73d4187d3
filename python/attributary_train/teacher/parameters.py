"""Which weights a method looks at or moves, by name."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from attributary_train.errors import SubjectError, TeacherError
from attributary_train.generators.lora import lora_modules

ParameterSet = Literal["cross_kv", "cross_attention", "attention", "all"]


def module_names(unet: nn.Module, which: ParameterSet) -> list[str]:
    """Linear and Conv2d modules of a set, in the denoiser's order.

    `cross_kv`: keys and values of the text, what the papers move: of cross-attention, or the text's side of joint
    attention; `cross_attention`: with queries and output; `attention`: self-attention too; `all`: every Linear and
    Conv2d. Of a LoRA fine-tune every set is the LoRA's own weights: the rest is not what the data set changed.
    Raises `SubjectError` if the model has none (no cross-attention), `TeacherError` if the set is unknown.
    """
    if which not in get_args(ParameterSet):
        raise TeacherError("parameters", f"{which!r}; there are {', '.join(get_args(ParameterSet))}")
    if own := lora_modules(unet):
        return own
    names = []
    for name, module in unet.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if which == "all" or _belongs(name, which):
            names.append(name)
    if not names:
        raise SubjectError(
            "unet", f"has no module of the set {which!r}: not conditioned on text by cross-attention"
        )
    return names


_TEXT = ("attn2.to_k", "attn2.to_v", "attn.add_k_proj", "attn.add_v_proj")
_TEXT_SIDE = frozenset({"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"})


def _belongs(name: str, which: str) -> bool:
    parts = name.split(".")
    if which == "cross_kv":
        return name.endswith(_TEXT)
    if which == "cross_attention":
        return "attn2" in parts or bool(_TEXT_SIDE & set(parts))
    return bool({"attn", "attn1", "attn2"} & set(parts))
