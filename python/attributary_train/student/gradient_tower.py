"""The generator's own gradient as a feature: one backward pass at one noise, inside the encoder that is served.

What D-TRAK compares are gradients of ||eps_theta(x_t, t, c)||^2 (Zheng et al., "Intriguing Properties of Data
Attribution on Diffusion Models", ICLR 2024), here each layer's projected from both sides (LoGra; Choe et al., 2024).
D-TRAK takes a hundred draws of noise of a query's own; here every picture meets the same noise and its mirror image,
so that what noise adds is no difference between pictures, and two passes are enough for a student to start from.

The backward pass is traced once into plain forward operations, which ONNX Runtime runs like any others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from attributary_train.errors import StudentError
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.noise import noise_for, noise_key
from attributary_train.teacher.gradients import recorded
from attributary_train.teacher.projection import TwoSided

# Of the schedule; in the middle of it a single draw foretells retraining best (docs/student.md).
TIMESTEP = 0.5
# The mean square of an answer has gradients far below 1.
_LOUDER = 100.0
_aten = torch.ops.aten


class GradientTower(nn.Module):
    """Scaled latents [B, C, h, w] and token states [B, T, D] -> float32 [B, G], `rank`^2 numbers a layer.

    Layers are the convolutions of the residual blocks: they foretell retraining as well as all layers do, at a third of
    the numbers. Raises `StudentError` for a denoiser that has none.
    """

    def __init__(self, model: SubjectModel, rank: int, tokens: int) -> None:
        super().__init__()
        unet = model.unet
        convolutions = gradient_layers(unet)
        if not convolutions:
            raise StudentError(
                "subject", "has no residual blocks of convolutions; this student is not for it"
            )
        layers = [_Sided(module, at, TwoSided(rank)) for at, module in enumerate(convolutions)]
        step = int(TIMESTEP * model.timesteps)
        channels, side = int(unet.config.in_channels), int(unet.config.sample_size)
        noise = torch.from_numpy(noise_for(noise_key(0, "every item"), step, (channels, side, side)))
        self.width = sum(layer.width for layer in layers)
        examples = (
            torch.zeros(3, channels, side, side),
            torch.zeros(3, tokens, int(unet.config.cross_attention_dim)),
        )
        self.graph = _traced(_features_of(model, layers, step, noise), examples)

    def forward(self, latents: Tensor, states: Tensor) -> Tensor:
        """The projected gradient of each picture under its prompt."""
        out: Tensor = self.graph(latents, states)
        return out


def gradient_layers(unet: nn.Module) -> list[nn.Conv2d]:
    """Convolutions of the residual blocks, in the denoiser's order."""
    return [
        module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Conv2d) and "resnets" in name.split(".")
    ]


class _Sided:
    """A convolution with what its input and its output's gradient are multiplied by."""

    def __init__(self, module: nn.Conv2d, at: int, projection: TwoSided) -> None:
        self.module, outputs = module, int(module.weight.shape[0])
        inputs = module.weight.numel() // outputs + (module.bias is not None)
        self.inside, self.outside = projection.sides(at, outputs, inputs)
        self.width = projection.width(outputs, inputs)

    def of(self, given: Tensor, gradient: Tensor) -> Tensor:
        """Input and output's gradient of B rows -> float32 [B, width]; a bias is one more input that is 1."""
        module = self.module
        biased = module.bias is not None
        kernel, shift = (self.inside[:-1], self.inside[-1]) if biased else (self.inside, None)
        # Patches times a matrix are a convolution.
        weight = kernel.T.reshape(-1, given.shape[1], *module.kernel_size)
        seen = F.conv2d(given, weight, shift, module.stride, module.padding, module.dilation).flatten(2)
        told = F.conv2d(gradient, self.outside.T[:, :, None, None]).flatten(2)
        return (told @ seen.mT).flatten(1)


def _features_of(
    model: SubjectModel, layers: Sequence[_Sided], step: int, noise: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    unet, at = model.unet, torch.tensor([step])
    both = torch.stack([noise, -noise])
    with torch.no_grad():
        # Noising is linear in the latents: what they are multiplied by, and what is added.
        kept = float(model.noised(torch.ones_like(noise[None]), torch.zeros_like(noise[None]), at).mean())
        added = model.noised(torch.zeros_like(both), both, at.expand(2))[None]

    def features(latents: Tensor, states: Tensor) -> Tensor:
        count = latents.shape[0]
        noisy = (latents[:, None] * kept + added).flatten(0, 1)
        words = states[:, None].expand(-1, 2, -1, -1).flatten(0, 1)
        with recorded([layer.module for layer in layers]) as seen, torch.enable_grad():
            answer = unet(noisy, at, encoder_hidden_states=words, return_dict=False)[0]
            loud = answer.square().mean(dim=(1, 2, 3)).sum() * _LOUDER
            gradients = torch.autograd.grad(loud, [output for _, _, output in seen])
        parts = {
            number: layers[number].of(given, gradient)
            for (number, given, _), gradient in zip(seen, gradients, strict=True)
        }
        told = torch.cat([parts[number] for number in range(len(layers))], dim=1)
        return told.reshape(count, 2, -1).sum(1)

    return features


def _traced(features: Callable[[Tensor, Tensor], Tensor], examples: tuple[Tensor, Tensor]) -> nn.Module:
    """The function as a module of forward operations for any number of rows; weights are the model's own tensors."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: GraphModule = make_fx(
            features, decomposition_table=_plain(), tracing_mode="symbolic", _allow_non_fake_inputs=True
        )(*examples)
    graph = found.graph
    # What autograd kept apart is one computation now, and words are learnt through all of it.
    for node in graph.find_nodes(op="call_function", target=_aten.detach.default):
        _leave_out(graph, node, node.args[0])
    for target in (_aten.view.default, _aten._unsafe_view.default, _aten.expand.default):
        for node in graph.find_nodes(op="call_function", target=target):
            given = node.args[0]
            if given.meta["val"].shape == node.meta["val"].shape:
                _leave_out(graph, node, given)
            elif target != _aten.expand.default:
                # The norms below need not lay out their answers as torch's own do.
                node.target = _aten.reshape.default
    found.recompile()
    return found


def _leave_out(graph: Graph, node: Node, instead: Node) -> None:
    node.replace_all_uses_with(instead)
    graph.erase_node(node)


def _plain() -> dict[Any, Callable[..., Any]]:
    """Backward operations that ONNX has no name for, as forward ones; a layer norm too, whose statistics the backward
    pass uses and torch has no second derivative of."""
    table: dict[Any, Callable[..., Any]] = dict(
        get_decompositions(
            [
                _aten.native_layer_norm_backward, _aten.silu_backward, _aten.gelu_backward,
                _aten._softmax_backward_data, _aten.native_layer_norm,
            ]
        )
    )  # fmt: skip
    table[_aten.convolution_backward.default] = _convolution_backward
    table[_aten.native_group_norm.default] = _group_norm
    table[_aten.native_group_norm_backward.default] = _group_norm_backward
    table[_aten.upsample_nearest2d_backward.default] = _enlarged_backward
    return table


def _convolution_backward(
    gradient: Tensor, given: Tensor, weight: Tensor, bias: Any, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int, wanted: Sequence[bool],
) -> tuple[Tensor | None, None, None]:  # fmt: skip
    """Of the input alone, by the transposed convolution; weights are not asked for, `_Sided` makes their gradient."""
    if transposed or wanted[1] or wanted[2]:
        raise StudentError("subject", "has a convolution whose gradient is not understood")
    if not wanted[0]:
        return None, None, None
    # What the forward pass left over at the end of an axis.
    rest = [
        int(given.shape[2 + axis])
        - (int(gradient.shape[2 + axis]) - 1) * stride[axis]
        + 2 * padding[axis]
        - dilation[axis] * (int(weight.shape[2 + axis]) - 1)
        - 1
        for axis in range(len(stride))
    ]
    back = _aten.convolution.default(gradient, weight, None, stride, padding, dilation, True, rest, groups)
    return back, None, None


def _group_norm(
    given: Tensor, weight: Tensor | None, bias: Tensor | None, rows: int, channels: int, places: int, groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """With the statistics that its backward pass takes; what both compute is one computation in the graph."""
    parts = given.reshape(-1, groups, channels // groups * given[0, 0].numel())
    mean = parts.mean(2)
    apart = parts - mean[..., None]
    scale = (apart.square().mean(2) + eps).rsqrt()
    out = (apart * scale[..., None]).reshape(given.shape)
    if weight is not None:
        out = out * weight[:, None, None]
    if bias is not None:
        out = out + bias[:, None, None]
    return out, mean, scale


def _group_norm_backward(
    gradient: Tensor, given: Tensor, mean: Tensor, scale: Tensor, weight: Tensor | None, rows: int, channels: int,
    places: int, groups: int, wanted: Sequence[bool],
) -> tuple[Tensor, None, None]:  # fmt: skip
    """Of the input alone: what was left of its gradient, the mean and the part along the output taken away."""
    if wanted[1] or wanted[2]:
        raise StudentError("subject", "has a norm whose gradient is not understood")
    loud = gradient if weight is None else gradient * weight[:, None, None]
    shape = (-1, groups, channels // groups * given[0, 0].numel())
    loud, parts = loud.reshape(shape), given.reshape(shape)
    seen = (parts - mean[..., None]) * scale[..., None]
    back = loud - loud.mean(2, keepdim=True) - seen * (loud * seen).mean(2, keepdim=True)
    return (back * scale[..., None]).reshape(given.shape), None, None


def _enlarged_backward(
    gradient: Tensor, output_size: Sequence[int], input_size: Sequence[int], *scales: float | None
) -> Tensor:
    """Of enlarging by whole numbers: each place is handed what all its copies got."""
    rows, channels, height, width = input_size
    tall, wide = int(output_size[0]) // int(height), int(output_size[1]) // int(width)
    return gradient.reshape(rows, channels, height, tall, width, wide).sum((3, 5))
