"""Many trainings of one recipe at once: the steps of `train_unet`, with the models stacked along a first dimension.

A model of a million weights leaves a GPU idle; thirty of them side by side do not. What a run ends with is what it
would end with alone but for rounding. On CPUs nothing is gained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from attributary_train.errors import SubjectError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, new_scheduler, new_unet
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.train import Run, drawn_batch, learning_rate, starting_unet

Weights = dict[str, Tensor]
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass
class _Adam:
    """AdamW (Loshchilov and Hutter, 2019) on stacked weights, as torch's with its default settings."""

    first: Weights
    second: Weights
    steps: int = 0

    @classmethod
    def of(cls, weights: Weights) -> _Adam:
        return cls(
            {name: torch.zeros_like(value) for name, value in weights.items()},
            {name: torch.zeros_like(value) for name, value in weights.items()},
        )

    def step(self, weights: Weights, gradients: Weights, rate: float, decay: float) -> None:
        self.steps += 1
        one, two = (1.0 - beta**self.steps for beta in _BETAS)
        for name, value in weights.items():
            gradient = gradients[name]
            value.mul_(1.0 - rate * decay)
            self.first[name].lerp_(gradient, 1.0 - _BETAS[0])
            self.second[name].mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1.0 - _BETAS[1])
            size = (self.second[name] / two).sqrt_().add_(_EPSILON)
            value.addcdiv_(self.first[name], size, value=-rate / one)


def train_together(
    runs: Sequence[Run],
    data: SubjectData,
    *,
    device: str = "cpu",
    log: Callable[[str], None] | None = None,
) -> list[UNet2DConditionModel]:
    """Averaged weights (EMA) of every run, in evaluation mode, on the CPU.

    Raises `SubjectError` if the runs are of several recipes or a gradient stops being finite.
    """
    recipe = runs[0].recipe
    if any(run.recipe != recipe for run in runs):
        raise SubjectError("runs", "of several recipes cannot be trained together")
    unets = [starting_unet(run, data).to(device).train() for run in runs]
    stacked, buffers = stack_module_state(unets)
    weights: Weights = {name: value.detach() for name, value in stacked.items()}
    averaged = {name: value.clone() for name, value in weights.items()}
    adam = _Adam.of(weights)
    one = _one_step(recipe, unets[0], device)
    on_device = data.to(device)
    for step in range(recipe.steps):
        batch = [drawn_batch(run, on_device, step, device) for run in runs]
        parts = [torch.stack([entry[at] for entry in batch]) for at in range(4)]
        gradients, loss = one(weights, buffers, *parts)
        _clip(gradients, step, recipe)
        adam.step(weights, gradients, learning_rate(recipe, step), recipe.weight_decay)
        decay = min(recipe.ema_decay, (1.0 + step) / (10.0 + step))
        for name, value in weights.items():
            averaged[name].lerp_(value, 1.0 - decay)
        if log is not None and (step + 1) % 100 == 0:
            log(f"step {step + 1}/{recipe.steps}: loss {float(loss.mean()):.4f}, {len(runs)} models")
    return [_alone(recipe, averaged, at) for at in range(len(runs))]


def _one_step(recipe: Recipe, unet: UNet2DConditionModel, device: str) -> Callable[..., Any]:
    """Function: stacked weights and batches -> stacked gradients and losses [K]."""
    shape = copy.deepcopy(unet).to("meta")
    scheduler = new_scheduler(recipe)

    def loss(
        weights: Weights, buffers: Weights, latents: Tensor, noise: Tensor, timesteps: Tensor, text: Tensor
    ) -> Tensor:
        class Here(torch.nn.Module):
            config = unet.config

            def __call__(self, *given: Any, **more: Any) -> Any:
                return functional_call(shape, (weights, buffers), given, more)

        model = SubjectModel(Here(), scheduler, "", {})
        answer = model.predict(latents, noise, timesteps, text)
        return (answer.float() - model.target(latents, noise, timesteps)).square().mean()

    step = vmap(grad_and_value(loss), randomness="error")

    def run(*given: Any) -> Any:
        # Fused attention has no rule for stacked models.
        with (
            torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.bf16),
            sdpa_kernel(SDPBackend.MATH),
        ):
            return step(*given)

    return run


def _clip(gradients: Weights, step: int, recipe: Recipe) -> None:
    squares = torch.stack([value.square().flatten(1).sum(1) for value in gradients.values()])
    norms = squares.sum(0).sqrt()
    if not torch.isfinite(norms).all():
        raise SubjectError("gradient", f"not finite at step {step} of {recipe.name}; lower the learning rate")
    scale = (1.0 / (norms + 1e-6)).clamp(max=1.0)
    for value in gradients.values():
        value.mul_(scale.view(-1, *[1] * (value.dim() - 1)))


def _alone(recipe: Recipe, averaged: Weights, at: int) -> UNet2DConditionModel:
    unet = new_unet(recipe)
    # Checkpoints hold half precision; what is measured is what is loaded later.
    unet.load_state_dict({name: value[at].cpu().half().float() for name, value in averaged.items()})
    return unet.requires_grad_(False).eval()
