"""Towers of a few weights in place of EfficientNet and MiniLM; every one that is made has the same weights."""

import torch

from attributary_train.towers.rows import unit_rows


def _same(build):
    """Whatever was drawn before, and without a trace in what is drawn after."""

    def built(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            build(self)

    return built


class TinyImageTower(torch.nn.Module):
    name, dim, image_size = "tiny-image", 8, 16

    @_same
    def __init__(self):
        torch.nn.Module.__init__(self)
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU6())
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.nn.ReLU6(), torch.nn.Conv2d(8, 8, 1)
        )

    def forward(self, pixels):
        x = self.stem((pixels.to(torch.float32).permute(0, 3, 1, 2) - 127) / 128)
        return unit_rows((x + self.body(x)).mean(dim=(2, 3)))


class TinyTextTower(torch.nn.Module):
    name, dim, max_tokens = "tiny-text", 6, 9

    @_same
    def __init__(self):
        torch.nn.Module.__init__(self)
        self.words = torch.nn.Embedding(20, 6)
        self.layer = torch.nn.Linear(6, 6)

    def forward(self, ids, mask):
        weight = mask.to(torch.float32)[:, :, None]
        return (self.layer(self.words(ids)) * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
