"""EK-FAC: the Fisher information of chosen layers, Kronecker-factored, with corrected eigenvalues.

George et al., "Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis", 2018; as a preconditioner
of influence: Grosse et al., 2023. `factors.py` fits them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from attributary_train.errors import TeacherError
from attributary_train.files import reading, whole
from attributary_train.subject.model import SubjectModel
from attributary_train.teacher.parameters import ParameterSet

Gradients = dict[str, Tensor]
_PARTS = ("activation", "gradient", "eigenvalues")


@dataclass(frozen=True)
class Layer:
    """Factors of one module with weight [O, I] (a convolution flattened; a bias as one more column).

    `activation`: float32 [I, I] and `gradient`: float32 [O, O], eigenvectors as columns; `eigenvalues`: float32 [O, I],
    the mean squared gradient along each pair.
    """

    activation: Tensor
    gradient: Tensor
    eigenvalues: Tensor

    def rotate(self, weight: Tensor) -> Tensor:
        """Into the eigenbasis: [..., O, I] -> [..., O, I]."""
        return self.gradient.T @ weight @ self.activation

    def back(self, weight: Tensor) -> Tensor:
        """Out of the eigenbasis."""
        return self.gradient @ weight @ self.activation.T

    def damped(self, damping: float) -> Tensor:
        """Eigenvalues plus `damping` times their mean: layer-wise, as the FastGDA paper states (0.1)."""
        return self.eigenvalues + damping * self.eigenvalues.mean()


@dataclass(frozen=True)
class Factors:
    """EK-FAC factors of a model. `weights` is the hash of the U-Net they were fitted on; `facts` says how."""

    layers: Mapping[str, Layer]
    weights: str
    facts: dict[str, object]

    def precondition(self, gradients: Gradients, damping: float) -> Gradients:
        """F^-1 g, layer by layer; larger damping leans towards the plain gradient."""
        out = {}
        for name, gradient in gradients.items():
            layer = self.layers[name]
            out[name] = layer.back(layer.rotate(gradient) / layer.damped(damping))
        return out

    def quadratic(self, direction: Gradients) -> float:
        """d^T F d without damping: how much the model's answers move, to second order, along a direction."""
        total = 0.0
        for name, value in direction.items():
            layer = self.layers[name]
            total += float((layer.rotate(value).double().square() * layer.eigenvalues.double()).sum())
        return total

    def to(self, device: str) -> Factors:
        """The same factors on a device."""
        layers = {
            name: Layer(layer.activation.to(device), layer.gradient.to(device), layer.eigenvalues.to(device))
            for name, layer in self.layers.items()
        }
        return Factors(layers, self.weights, self.facts)

    @property
    def digest(self) -> str:
        """SHA-256 of all factors, hexadecimal."""
        total = hashlib.sha256(self.weights.encode())
        for name in sorted(self.layers):
            total.update(name.encode())
            for part in _PARTS:
                total.update(getattr(self.layers[name], part).contiguous().cpu().numpy().tobytes())
        return total.hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all factors in memory."""
        return sum(
            part.numel() * part.element_size()
            for layer in self.layers.values()
            for part in (layer.activation, layer.gradient, layer.eigenvalues)
        )


@dataclass(frozen=True)
class FactorSettings:
    """`draws`: noised copies of each training item (evenly spaced timesteps); `sampled`: targets are drawn from the
    model (the true Fisher, as Kronfluence's default and the papers) instead of being the noise that was added
    (empirical)."""

    parameters: ParameterSet = "cross_kv"
    draws: int = 5
    sampled: bool = True
    backend: Literal["auto", "kronfluence", "torch"] = "auto"
    batch: int = 64
    seed: int = 0


def save_factors(factors: Factors, path: Path) -> None:
    """Write one safetensors file, atomically; raises `TeacherError` if it cannot be written."""
    tensors = {
        f"{name}/{part}": getattr(layer, part).contiguous()
        for name, layer in factors.layers.items()
        for part in _PARTS
    }
    with whole(path, TeacherError) as stream:
        save_file(tensors, stream.name, {"weights": factors.weights, "facts": json.dumps(factors.facts)})


def load_factors(path: Path, model: SubjectModel) -> Factors:
    """Raises `TeacherError` if the file is damaged or the Fisher of another model."""
    with reading(path, TeacherError, "not a file of factors"):
        with safe_open(path, "pt") as stream:
            facts = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
        weights, details = facts["weights"], json.loads(facts["facts"])
    if weights != model.weights:
        raise TeacherError(str(path), f"is the Fisher of model {weights[:12]}, not of {model.weights[:12]}")
    names: Sequence[str] = dict.fromkeys(key.rsplit("/", 1)[0] for key in tensors)  # type: ignore[assignment]
    layers = {name: Layer(*(tensors[f"{name}/{part}"] for part in _PARTS)) for name in names}
    return Factors(layers, weights, details)


def as_matrix(module: nn.Module, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A module's weight (or its gradient) as [O, I]: kernels flattened, the bias as a last column."""
    flat = weight.reshape(weight.shape[0], -1)
    return flat if bias is None else torch.cat([flat, bias[:, None]], dim=1)


def add_matrix(module: nn.Module, change: Tensor) -> None:
    """Add a change in the form of `as_matrix` to a module's weights, in place."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    if isinstance(bias, Tensor):
        bias.data += change[:, -1]
        change = change[:, :-1]
    weight.data += change.reshape(weight.shape)
