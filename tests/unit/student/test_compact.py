"""The compact student: exported as it computes, resumed as if never stopped, fed with pictures that stay pictures."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from attributary.encoder.onnx import OnnxEncoder
from attributary_train.errors import StudentError
from attributary_train.student.big_model import enlarged, enlarging
from attributary_train.student.compact import Compact, CompactShape, folded, table_rows
from attributary_train.student.distil import DistilSettings, Lessons, augmented, distil
from attributary_train.student.export import ExportError, Samples, export_encoder
from attributary_train.student.variants import cosines, export_variants
from attributary_train.towers.graph import to_onnx
from attributary_train.towers.rows import unit_rows

SHAPE = CompactShape(
    dim=24,
    image_size=32,
    widths=(8, 8, 16),
    text_width=16,
    text_layers=1,
    text_heads=2,
    known=20,
    shared=8,
    max_tokens=6,
)
SETTINGS = DistilSettings(epochs=3, batch=8, prompts=8)


def compact(seed=0):
    torch.manual_seed(seed)
    return Compact(SHAPE, table_rows(100, torch.arange(30, 50), SHAPE.shared))


def lessons(pictures=24, prompts=40):
    rng = torch.Generator().manual_seed(5)

    def unit(rows):
        return torch.nn.functional.normalize(torch.randn(rows, SHAPE.dim, generator=rng), dim=1)

    def tokens(rows):
        ids = torch.randint(1, 100, (rows, SHAPE.max_tokens), generator=rng)
        mask = (torch.arange(SHAPE.max_tokens) < torch.randint(1, 7, (rows, 1), generator=rng)).long()
        return ids * mask, mask

    pixels = torch.randint(0, 256, (pictures, 32, 32, 3), generator=rng).to(torch.uint8)
    return Lessons(pixels, *tokens(pictures), unit(pictures), *tokens(prompts), unit(prompts), unit(12))


def samples(rows=24):
    some = lessons(rows)
    return Samples(some.pixels.numpy(), some.ids.numpy(), some.mask.numpy())


def test_onnx_computes_what_torch_does_and_variants_name_their_original(tmp_path):
    trained = distil(compact(), lessons(), replace(SETTINGS, epochs=1), tmp_path / "t")
    tokenizer = tmp_path / "any.json"
    tokenizer.write_text("{}")
    told = export_encoder(tmp_path / "e", folded(trained), tokenizer, samples(), int8=False)
    assert told["parity_max_abs_difference"] < 1e-4
    assert (told["dim"], told["image_size"], told["max_tokens"]) == (24, 32, 6)
    facts = export_variants(tmp_path / "e", samples())
    original = OnnxEncoder(tmp_path / "e" / "encoder.onnx")
    for name, least in (("fp16", 0.999), ("int8", 0.9)):
        variant = OnnxEncoder(tmp_path / "e" / f"encoder.{name}.onnx")
        assert variant.vectors_of == original.spec.digest != variant.spec.digest
        assert facts[name]["cosine_to_fp32"]["image_and_prompt"]["mean"] > least
    assert cosines(original, original, samples())["image"]["min"] > 0.9999


def test_folding_batch_norms_changes_nothing(tmp_path):
    trained = distil(compact(), lessons(), replace(SETTINGS, epochs=1), tmp_path)
    some = lessons()
    with torch.inference_mode():
        before, after = (model(some.pixels, some.ids, some.mask) for model in (trained, folded(trained)))
    assert torch.allclose(before, after, atol=1e-5)
    assert torch.allclose(before.norm(dim=1), torch.ones(len(before)), atol=1e-5)


def test_a_row_without_prompt_does_not_see_its_tokens_nor_its_neighbours():
    model, some = compact().eval(), lessons()
    none = torch.zeros_like(some.mask)
    with torch.inference_mode():
        alone = model(some.pixels, some.ids, none)
        assert torch.allclose(alone, model(some.pixels, torch.zeros_like(some.ids), none), atol=1e-6)
        mixed = some.mask.clone()
        mixed[::2] = 0
        assert torch.allclose(model(some.pixels, some.ids, mixed)[::2], alone[::2], atol=1e-6)


def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole = distil(compact(), lessons(), SETTINGS, tmp_path / "whole")
    from attributary_train.student import distil as module

    real, calls = module._epoch, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        distil(compact(), lessons(), SETTINGS, tmp_path / "torn")
    monkeypatch.setattr(module, "_epoch", real)
    resumed = distil(compact(seed=9), lessons(), SETTINGS, tmp_path / "torn")
    for (name, first), second in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(first, second), name
    with pytest.raises(StudentError, match="begun with other settings"):
        distil(compact(), lessons(), replace(SETTINGS, batch=4), tmp_path / "torn")


def test_a_target_that_is_not_finite_ends_the_run(tmp_path):
    broken = lessons()
    broken.target[2] = float("nan")
    with pytest.raises(StudentError, match="loss: not finite in epoch 1"):
        distil(compact(), broken, SETTINGS, tmp_path)


def test_changed_pictures_are_still_those_pictures():
    pixels = torch.randint(0, 256, (6, 32, 32, 3)).to(torch.uint8)
    smooth = torch.full_like(pixels, 90)
    torch.manual_seed(0)
    assert augmented(pixels).shape == pixels.shape
    moved = augmented(smooth)
    assert moved.min() >= 0.0 and moved.max() <= 255.0
    assert (moved.mean(dim=(1, 2, 3)) - 90.0).abs().max() < 25.0


def test_known_word_pieces_have_rows_of_their_own():
    rows = table_rows(1000, torch.tensor([3, 500, 999]), 16)
    assert rows[[3, 500, 999]].tolist() == [16, 17, 18]
    others = np.delete(rows.numpy(), [3, 500, 999])
    assert others.max() < 16 and len(np.unique(others)) == 16


def test_enlarging_is_pillows_bicubic():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    wanted = np.asarray(Image.fromarray(picture).resize((56, 56), Image.Resampling.BICUBIC)).astype(int)
    x = torch.from_numpy(picture).float().permute(2, 0, 1)
    found = enlarged(x, enlarging(16, 56)).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - wanted).max() <= 1


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(StudentError, match="image_size: 40; must be a multiple of 16"):
        replace(SHAPE, image_size=40)
    with pytest.raises(StudentError, match="text_width: 16; must be a multiple of text_heads"):
        replace(SHAPE, text_heads=3)


def test_a_row_of_zeros_stays_one_in_onnx(tmp_path):
    class Rows(torch.nn.Module):
        def forward(self, x):
            return unit_rows(x)

    to_onnx(Rows(), [torch.ones(2, 4)], {"x": {0: "B"}}, "rows", tmp_path / "rows.onnx")
    session = ort.InferenceSession(tmp_path / "rows.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"x": np.array([[0, 0, 0, 0], [3, 0, 4, 0]], np.float32)})
    assert np.allclose(found, [[0, 0, 0, 0], [0.6, 0, 0.8, 0]])


def test_an_export_that_gives_nan_is_refused(tmp_path):
    class Broken(Compact):
        def forward(self, pixels, token_ids, token_mask):
            out = super().forward(pixels, token_ids, token_mask)
            # Only where there is no prompt.
            return out / token_mask.amax(dim=1, keepdim=True).float() * token_mask.amax(dim=1, keepdim=True)

    torch.manual_seed(0)
    broken = Broken(SHAPE, table_rows(100, torch.arange(30, 50), SHAPE.shared)).eval()
    tokenizer = tmp_path / "any.json"
    tokenizer.write_text("{}")
    with pytest.raises(ExportError, match="differs from torch by inf"):
        export_encoder(tmp_path / "e", folded(broken), tokenizer, samples(), int8=False)


def test_a_run_on_other_lessons_does_not_go_on_from_the_old_ones(tmp_path):
    settings = replace(SETTINGS, epochs=1)
    distil(compact(), lessons(), settings, tmp_path, digest="first")
    distil(compact(), lessons(), settings, tmp_path, digest="first")
    with pytest.raises(StudentError, match="another student, other labels or prompts"):
        distil(compact(), lessons(), settings, tmp_path, digest="second")


def test_a_torn_checkpoint_is_named(tmp_path):
    settings = replace(SETTINGS, epochs=1)
    distil(compact(), lessons(), settings, tmp_path)
    (tmp_path / "training-state.pt").write_bytes(b"")
    with pytest.raises(StudentError, match=r"training-state\.pt.*is torn"):
        distil(compact(), lessons(), settings, tmp_path)
