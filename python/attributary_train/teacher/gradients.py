"""Per-sample gradients of a model's loss, averaged per item over timesteps and noise, and projected as they come.

A layer's gradient is the product of its input and its output's gradient, both of which hooks see for a whole batch
(Goodfellow, 2015): one backward pass serves all samples, and the mean over an item's draws is part of the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from attributary_train.errors import TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, loss_timesteps
from attributary_train.subject.noise import noise_grid, noise_key
from attributary_train.subject.queries import Queries
from attributary_train.teacher.draws import query_draws
from attributary_train.teacher.parameters import ParameterSet, module_names
from attributary_train.teacher.projection import Projection

Output = Literal["loss", "square", "mean"]
# Draws of one query: latents, noise [B, C, h, w] and timesteps [B].
Draws = Iterator[tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class GradientSettings:
    """`parameters`: the layers; `output`: the denoising loss, D-TRAK's mean of eps_theta^2, or DAS's mean of eps_theta;
    `timesteps`: evenly spaced, one noise each, per training item, met by its mirror image too if `mirrored` (as AbU's
    losses are);
    `query_draws`: noised copies of a query; `batch`: rows of a pass; `memory`: bytes that unprojected gradients may
    take at a time; `draw`: which independent noise; `unit`: the gradient at each timestep (the mean over a noise and
    its mirror image) is scaled to unit length before the mean, so that loud timesteps do not drown the others."""

    parameters: ParameterSet = "cross_kv"
    output: Output = "loss"
    timesteps: int = 5
    mirrored: bool = True
    query_draws: int = 100
    batch: int = 128
    memory: int = 512 << 20
    draw: int = 0
    unit: bool = False

    def __post_init__(self) -> None:
        if self.output not in get_args(Output):
            raise TeacherError("output", f"{self.output!r}; there are {', '.join(get_args(Output))}")
        TeacherError.if_below(
            1, timesteps=self.timesteps, query_draws=self.query_draws, batch=self.batch, memory=self.memory
        )


def output_of(
    model: SubjectModel, output: Output, latents: Tensor, noise: Tensor, steps: Tensor, text: Tensor
) -> Tensor:
    """What is differentiated, float32 [B]: the denoising loss, the mean of eps_theta^2 (Zheng et al., 2024), or the
    mean of eps_theta (Lin et al., 2025)."""
    if output == "loss":
        return model.losses(latents, noise, steps, text)
    answer = model.predict(latents, noise, steps, text).float()
    return (answer if output == "mean" else answer.square()).mean(dim=(1, 2, 3))


class GradientPass:
    """Gradients of one model: `parameters` decides the layers, `projection` what is kept of them."""

    def __init__(self, model: SubjectModel, settings: GradientSettings, projection: Projection) -> None:
        self.model, self.settings, self.projection = model, settings, projection
        # Where the denoiser is; what is drawn and kept is on the CPU, and comes back there.
        self.device = next(model.unet.parameters()).device
        modules = dict(model.unet.named_modules())
        self.names = module_names(model.unet, settings.parameters)
        self._modules = [modules[name] for name in self.names]
        self.shapes = [
            _matrix_shape(name, module) for name, module in zip(self.names, self._modules, strict=True)
        ]
        self.widths = [projection.width(*shape) for shape in self.shapes]
        self.total = sum(self.widths)
        # Items whose gradients are summed up before they are projected together.
        self.block = max(1, min(512, settings.memory // (4 * self.total)))
        self.passes = 0

    def add(
        self, out: Tensor, latents: Tensor, noise: Tensor, steps: Tensor, text: Tensor, weight: float
    ) -> None:
        """Add `weight` times each owner's summed gradient to out [n, total]; rows are n x draws, owner by owner."""
        owners = len(out)
        with recorded(self._modules) as seen, torch.enable_grad():
            given = [part.to(self.device) for part in (latents, noise, steps, text)]
            value = output_of(self.model, self.settings.output, *given).sum() * weight
            if not torch.isfinite(value):
                raise TeacherError(
                    self.settings.output, f"not finite at timesteps {sorted(set(steps.tolist()))}"
                )
            outputs = [output for _, _, output in seen]
            gradients = torch.autograd.grad(value, outputs)
        self.passes += len(latents)
        starts = np.cumsum([0, *self.widths])
        for (layer, inputs, _), gradient in zip(seen, gradients, strict=True):
            a, g = factors_of(self._modules[layer], inputs, gradient)
            a, g = a.reshape(owners, -1, a.shape[-1]), g.reshape(owners, -1, g.shape[-1])
            out[:, starts[layer] : starts[layer + 1]] += self.projection.reduce(layer, a, g)

    def _add_unit(
        self,
        out: Tensor,
        latents: Tensor,
        noise: Tensor,
        steps: Tensor,
        text: Tensor,
        each: int,
        weight: float,
    ) -> None:
        """As `add`, of gradients scaled to unit length first; `each` rows (a noise and its mirror image, or one) make
        one of them."""
        many = len(latents) // each
        # Unprojected gradients stand side by side here, one a timestep.
        some = max(1, min(many, self.settings.memory // (4 * self.total)))
        per = many // len(out)
        for at in range(0, many, some):
            part = slice(at * each, (at + some) * each)
            raw = torch.zeros(min(some, many - at), self.total, device=self.device)
            self.add(raw, latents[part], noise[part], steps[part], text[part], 1.0)
            owners = torch.arange(at, at + len(raw), device=self.device) // per
            out.index_add_(0, owners, torch.nn.functional.normalize(raw, dim=1), alpha=weight)

    def of_items(
        self, data: SubjectData, rows: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        """Yield (positions in `rows`, features [n, k] of these items), a block at a time."""
        once = torch.tensor(loss_timesteps(self.model, self.settings.timesteps))
        steps = torch.cat([once, once]) if self.settings.mirrored else once
        shape = data.latents.shape[1:]
        columns = min(len(steps), self.settings.batch)
        per = max(1, self.settings.batch // columns)
        for start in range(0, len(rows), self.block):
            block = np.arange(start, min(start + self.block, len(rows)))
            raw = torch.zeros(len(block), self.total, device=self.device)
            for at in range(0, len(block), per):
                some = rows[block[at : at + per]]
                keys = [noise_key(int(data.ids[row]), data.prompts[row]) for row in some]
                noise = noise_grid(keys, once.tolist(), shape, self.settings.draw)
                if self.settings.mirrored:
                    noise = torch.cat([noise, -noise], dim=1)
                if self.settings.unit:
                    self._add_unit_items(raw[at : at + per], data, some, noise)
                    continue
                for first in range(0, len(steps), columns):
                    grid = steps[first : first + columns]
                    self.add(
                        raw[at : at + per],
                        data.latents[some].repeat_interleave(len(grid), 0),
                        noise[:, first : first + columns].flatten(0, 1),
                        grid.repeat(len(some)),
                        data.text_at(
                            torch.from_numpy(some).repeat_interleave(len(grid)), grid.repeat(len(some))
                        ),
                        1.0 / len(steps),
                    )
            yield block, self._finished(raw)

    def _add_unit_items(
        self, out: Tensor, data: SubjectData, rows: npt.NDArray[np.int64], noise: Tensor
    ) -> None:
        """Add the items' mean unit gradients to out [n, total]; noise [n, columns, C, h, w], mirror images behind."""
        once = torch.tensor(loss_timesteps(self.model, self.settings.timesteps))
        each = 2 if self.settings.mirrored else 1
        # A noise beside its mirror image, timestep after timestep, item after item.
        noise = noise.unflatten(1, (each, len(once)))  # type: ignore[no-untyped-call]
        noise = noise.transpose(1, 2).flatten(0, 2)
        steps = once.repeat_interleave(each).repeat(len(rows))
        many = each * len(once)
        text = data.text_at(torch.from_numpy(rows).repeat_interleave(many), steps)
        latents = data.latents[rows].repeat_interleave(many, 0)
        self._add_unit(out, latents, noise, steps, text, each, 1.0 / len(once))

    def of_queries(self, queries: Queries, draws: Callable[[int], Draws] | None = None) -> Tensor:
        """Features [Q, k]; `draws(row)` gives a query's noised copies, by default those that belong to it."""
        draws = draws or (lambda row: self._own_draws(queries, row))
        parts = []
        for start in range(0, len(queries), self.block):
            rows = range(start, min(start + self.block, len(queries)))
            raw = torch.zeros(len(rows), self.total, device=self.device)
            for at, row in enumerate(rows):
                text = queries.text[row].clone()
                count = 0
                for latents, noise, steps in draws(row):
                    texts = text.expand(len(steps), -1, -1)
                    if self.settings.unit:
                        # Draws come as noises and then their mirror images.
                        beside = torch.arange(len(steps)).view(2, -1).T.flatten()
                        self._add_unit(
                            raw[at : at + 1], latents[beside], noise[beside], steps[beside], texts, 2, 2.0
                        )
                    else:
                        self.add(raw[at : at + 1], latents, noise, steps, texts, 1.0)
                    count += len(steps)
                raw[at] /= count
            parts.append(self._finished(raw))
        return torch.cat(parts)

    def split(self, features: Tensor) -> dict[str, Tensor]:
        """Unprojected features [n, P] as each layer's gradient [n, O, I]."""
        parts = torch.split(features, [outputs * inputs for outputs, inputs in self.shapes], dim=1)
        return {
            name: part.reshape(-1, *shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def _own_draws(self, queries: Queries, row: int) -> Draws:
        latents = queries.latents[row].clone()
        for noise, steps in query_draws(
            queries.names[row], queries.prompts[row], latents.shape, self.model.timesteps,
            self.settings.query_draws, self.settings.draw, self.settings.batch,
        ):  # fmt: skip
            yield latents.expand(len(steps), -1, -1, -1), noise, steps

    def _finished(self, raw: Tensor) -> Tensor:
        if not torch.isfinite(raw).all():
            starts = np.cumsum(self.widths)
            layer = int(np.searchsorted(starts, int((~torch.isfinite(raw)).any(dim=0).nonzero()[0]), "right"))
            raise TeacherError(f"gradient of {self.names[layer]}", "is not finite")
        return self.projection.finish(raw.cpu())


@contextmanager
def recorded(modules: Sequence[nn.Module]) -> Iterator[list[tuple[int, Tensor, Tensor]]]:
    """Collect (layer, input, output) of every call; outputs are made to require gradients, weights need not."""
    seen: list[tuple[int, Tensor, Tensor]] = []

    def hook(layer: int, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:
            output.requires_grad_(True)
        seen.append((layer, inputs[0].detach(), output))

    handles = [
        module.register_forward_hook(lambda _, inputs, output, layer=layer: hook(layer, inputs, output))
        for layer, module in enumerate(modules)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _matrix_shape(name: str, module: nn.Module) -> tuple[int, int]:
    """(O, I) of a layer's weight as a matrix, a bias being one more column."""
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise TeacherError(name, f"is a {type(module).__name__}; Linear and Conv2d are understood")
    if isinstance(module, nn.Conv2d) and (module.groups != 1 or isinstance(module.padding, str)):
        raise TeacherError(
            name, f"has {module.groups} groups and padding {module.padding!r}; plain Conv2d only"
        )
    outputs = module.weight.shape[0]
    return outputs, module.weight.numel() // outputs + (module.bias is not None)


def factors_of(module: nn.Module, inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's factors of each row: [B, S, I] and [B, S, O], S positions; gradient of the weight = sum_s g_s a_s^T."""
    if isinstance(module, nn.Conv2d):
        assert not isinstance(module.padding, str)
        a = F.unfold(
            inputs.float(), module.kernel_size, module.dilation, module.padding, module.stride
        ).transpose(1, 2)
        g = gradient.flatten(2).transpose(1, 2).float()
    else:
        rows = len(inputs)
        a = inputs.float().reshape(rows, -1, inputs.shape[-1])
        g = gradient.float().reshape(rows, -1, gradient.shape[-1])
    if module.bias is not None:
        a = torch.cat([a, a.new_ones(*a.shape[:2], 1)], dim=2)
    return a, g
