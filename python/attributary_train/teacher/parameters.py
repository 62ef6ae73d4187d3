"""Which weights a method looks at or moves, by name."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from attributary_train.subject.errors import SubjectError
from attributary_train.teacher.errors import TeacherError

ParameterSet = Literal["cross_kv", "cross_attention", "attention", "all"]


def module_names(unet: nn.Module, which: ParameterSet) -> list[str]:
    """Linear and Conv2d modules of a set, in the U-Net's order.

    `cross_kv`: keys and values of cross-attention, what the papers move; `cross_attention`: with queries and output;
    `attention`: self-attention too; `all`: every Linear and Conv2d.
    Raises `SubjectError` if the model has none (no cross-attention), `TeacherError` if the set is unknown.
    """
    if which not in get_args(ParameterSet):
        raise TeacherError("parameters", f"{which!r}; there are {', '.join(get_args(ParameterSet))}")
    names = []
    for name, module in unet.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        parts = name.split(".")
        if (
            which == "all"
            or (which == "attention" and ("attn1" in parts or "attn2" in parts))
            or (which == "cross_attention" and "attn2" in parts)
            or (which == "cross_kv" and name.endswith(("attn2.to_k", "attn2.to_v")))
        ):
            names.append(name)
    if not names:
        raise SubjectError(
            "unet", f"has no module of the set {which!r}: not conditioned on text by cross-attention"
        )
    return names
