"""EK-FAC factors of Linear and Conv2d layers in plain torch: two passes with hooks, no library.

The fallback of `ekfac_kronfluence`, and its check: both give the same factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from attributary_train.errors import TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.teacher.draws import LossGrid, item_keys, target_noise
from attributary_train.teacher.ekfac import FactorSettings, Layer
from attributary_train.teacher.gradients import factors_of

# Called with the activation [B, P, I] and the output's gradient [B, P, O] of a module.
Sink = Callable[[str, Tensor, Tensor], None]


@contextmanager
def watched(unet: nn.Module, names: Sequence[str], sink: Sink) -> Iterator[None]:
    """Pass activations and output gradients of modules to `sink` during backward passes; a bias is one more activation,
    always 1."""
    handles = []
    modules = dict(unet.named_modules())
    for name in names:
        module = modules[name]
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise TeacherError(name, f"is a {type(module).__name__}; Linear and Conv2d are understood")

        def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            seen = inputs[0].detach()
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda grad: sink(name, *factors_of(module, seen, grad.detach()))
            )

        handles.append(module.register_forward_hook(forward))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def backward_pass(
    model: SubjectModel,
    data: SubjectData,
    grid: LossGrid,
    names: Sequence[str],
    settings: FactorSettings,
    sink: Sink,
) -> None:
    """One pass over (item, timestep); a batch's loss is the sum of its rows' mean squared errors."""
    keys, device = item_keys(data), next(model.unet.parameters()).device
    weights = [p for name, p in model.unet.named_parameters() if name.rsplit(".", 1)[0] in set(names)]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        with watched(model.unet, names, sink):
            for column, step in enumerate(grid.timesteps):
                for at in range(0, len(data), settings.batch):
                    part = slice(at, at + settings.batch)
                    latents, noise = data.latents[part].to(device), grid.noise[part, column].to(device)
                    states = data.text_at(torch.arange(len(data))[part], step.expand(len(latents)))
                    steps, text = step.expand(len(latents)).to(device), states.to(device)
                    answer = model.predict(latents, noise, steps, text)
                    if settings.sampled:
                        drawn = target_noise(keys[part], int(step), answer.shape[1:], settings.seed)
                        target = answer.detach() + drawn.to(device)
                    else:
                        target = model.target(latents, noise, steps)
                    torch.autograd.grad((answer - target).square().mean(dim=(1, 2, 3)).sum(), weights)
    finally:
        model.unet.requires_grad_(False)


def fit(
    model: SubjectModel,
    data: SubjectData,
    grid: LossGrid,
    names: Sequence[str],
    settings: FactorSettings,
    scratch: Path,
) -> dict[str, Layer]:
    """Covariances, their eigenvectors, then the mean squared gradient in that basis."""
    activations: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def covariances(name: str, seen: Tensor, grad: Tensor) -> None:
        a, g = seen.reshape(-1, seen.shape[-1]).double(), grad.reshape(-1, grad.shape[-1]).double()
        activations[name] = activations.get(name, 0.0) + a.T @ a
        gradients[name] = gradients.get(name, 0.0) + g.T @ g

    backward_pass(model, data, grid, names, settings, covariances)
    bases = {
        name: (torch.linalg.eigh(activations[name])[1].float(), torch.linalg.eigh(gradients[name])[1].float())
        for name in names
    }
    squares: dict[str, Tensor] = {}
    count = len(data) * len(grid.timesteps)

    def eigenvalues(name: str, seen: Tensor, grad: Tensor) -> None:
        basis_a, basis_g = bases[name]
        rotated = torch.einsum("bpo,bpi->boi", grad @ basis_g, seen @ basis_a)
        squares[name] = squares.get(name, 0.0) + rotated.square().sum(dim=0).double()

    backward_pass(model, data, grid, names, settings, eigenvalues)
    return {
        name: Layer(bases[name][0].cpu(), bases[name][1].cpu(), (squares[name] / count).float().cpu())
        for name in names
    }
