"""What a student is trained towards: the teacher's order, or its scores, over a query's candidates."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def rank_targets(scores: Tensor) -> Tensor:
    """Normalised ranks of Wang et al. (NeurIPS 2025): float32 [Q, C], j / C for rank j from 0 = most influential."""
    order = scores.argsort(dim=1, descending=True)
    places = torch.arange(scores.shape[1], dtype=torch.float32).expand(scores.shape).contiguous()
    return torch.zeros_like(scores).scatter_(1, order, places) / scores.shape[1]


def rank_bce(cosine: Tensor, target: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Soft-label binary cross-entropy of scale * cosine + shift against normalised ranks, mean over pairs.

    Ranks are small for influential items, so `scale` must end below zero for a larger cosine to mean more influence.
    """
    return F.binary_cross_entropy_with_logits(scale * cosine + shift, target)


def mass_targets(scores: Tensor, weight: Tensor, power: float) -> Tensor:
    """A distribution over candidates, float32 [Q, C]: weight x (standardised score above 0) ** power.

    Power 1 keeps the magnitude of what the teacher measured, less than 1 lets the tail speak. `weight` [C]: how many
    items a candidate stands for. A row without a positive score is uniform.
    """
    total = weight.sum()
    mean = (scores * weight).sum(1, keepdim=True) / total
    spread = ((scores - mean).square() * weight).sum(1, keepdim=True).div(total).sqrt().clamp(min=1e-12)
    above = ((scores - mean) / spread).clamp(min=0.0)
    return _distribution(above.pow(power) * (above > 0) * weight, weight)


def rank_mass_targets(scores: Tensor, weight: Tensor, length: float) -> Tensor:
    """A distribution that falls by e every `length` ranks, float32 [Q, C]; a candidate takes as many ranks as
    items that it stands for."""
    order = scores.argsort(dim=1, descending=True)
    sizes = weight.expand(scores.shape).gather(1, order)
    ranks = torch.zeros_like(scores).scatter_(1, order, sizes.cumsum(1) - sizes)
    return _distribution(torch.exp(-ranks / length) * weight, weight)


def _distribution(raw: Tensor, weight: Tensor) -> Tensor:
    total = raw.sum(1, keepdim=True)
    uniform = (weight / weight.sum()).expand(raw.shape)
    return torch.where(total > 0, raw / total.clamp(min=1e-12), uniform)


# Below about this a cosine's logarithm goes over into a straight line, so that one of 0 or less keeps its gradient.
FLOOR = 0.05


def soft_log(cosine: Tensor) -> Tensor:
    """log(FLOOR * softplus(x / FLOOR)): log(x) for a cosine well above `FLOOR`."""
    return (FLOOR * F.softplus(cosine / FLOOR)).log()


def listwise(cosine: Tensor, target: Tensor, weight: Tensor, scale: Tensor, link: str) -> Tensor:
    """Cross-entropy of the target distribution against the student's, mean over queries.

    The student's is proportional to exp(scale * cosine), link "exponential", or to cosine ** scale, link "power".
    ListNet's top-one loss (Cao et al., ICML 2007) on a sample: a candidate that stands for `weight` items takes that
    many places in the sum, as in sampled softmax.
    """
    shown = cosine if link == "exponential" else soft_log(cosine)
    logits = scale * shown + weight.log()
    return -(target * logits.log_softmax(dim=1)).sum(1).mean()


def listmle(cosine: Tensor, scores: Tensor, scale: Tensor) -> Tensor:
    """Negative log likelihood of the teacher's order under Plackett-Luce (Xia et al., ICML 2008), mean over places."""
    logits = (scale * cosine).gather(1, scores.argsort(dim=1, descending=True))
    rest = logits.flip(1).logcumsumexp(1).flip(1)
    return (rest - logits).mean()
