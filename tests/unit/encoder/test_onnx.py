"""The ONNX Runtime encoder: reads the file's own facts, refuses what is no encoder, checks what it is fed."""

import hashlib
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attributary.encoder import OnnxEncoder
from attributary.errors import BundleError, InvalidArgumentError, UnavailableError

SIZE, DIM, MAX_TOKENS = 4, 5, 7


def graph(
    inputs=("pixels", "token_ids", "token_mask"), output="embedding", kind=TensorProto.UINT8, size=SIZE
):
    """Mean colour and number of tokens, through a fixed matrix to DIM, scaled to unit length."""
    rng = np.random.default_rng(0)
    constants = [
        helper.make_tensor("matrix", TensorProto.FLOAT, [4, DIM], rng.random(4 * DIM).astype(np.float32)),
        helper.make_tensor("space", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("last", TensorProto.INT64, [1], [1]),
    ]
    nodes = [
        helper.make_node("Cast", [inputs[0]], ["colours"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["colours", "space"], ["mean"], keepdims=0),
        helper.make_node("Mul", [inputs[1], inputs[2]], ["kept"]),
        helper.make_node("Cast", ["kept"], ["words"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["words", "last"], ["count"], keepdims=1),
        helper.make_node("Concat", ["mean", "count"], ["features"], axis=1),
        helper.make_node("MatMul", ["features", "matrix"], ["projected"]),
        helper.make_node("LpNormalization", ["projected"], [output], axis=1, p=2),
    ]
    tokens = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in inputs[1:]]
    pixels = helper.make_tensor_value_info(inputs[0], kind, ["B", size, size, 3])
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["B", DIM])]
    return helper.make_graph(nodes, "tiny", [pixels, *tokens], outputs, constants)


def write(path, built=None, metadata=None):
    model = helper.make_model(built or graph(), opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for key, value in (metadata or {"attributary.max_tokens": str(MAX_TOKENS)}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    metadata = {"attributary.max_tokens": str(MAX_TOKENS), "attributary.name": "tiny"}
    return OnnxEncoder(write(tmp_path_factory.mktemp("onnx") / "encoder.onnx", metadata=metadata))


def query(rows=2, tokens=3):
    rng = np.random.default_rng(rows)
    pixels = rng.integers(0, 256, (rows, SIZE, SIZE, 3), dtype=np.uint8)
    ids = rng.integers(1, 9, (rows, tokens))
    return pixels, ids, np.ones_like(ids)


def test_spec_comes_from_the_file(tmp_path):
    path = write(tmp_path / "a.onnx")
    spec = OnnxEncoder(path).spec
    assert (spec.dim, spec.image_size, spec.max_tokens, spec.name) == (DIM, SIZE, MAX_TOKENS, "unnamed")
    assert spec.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_variants_name_their_original(tmp_path):
    own = OnnxEncoder(write(tmp_path / "a.onnx"))
    assert own.vectors_of == own.spec.digest
    metadata = {"attributary.max_tokens": "7", "attributary.variant_of": own.spec.digest}
    variant = OnnxEncoder(write(tmp_path / "b.onnx", metadata=metadata))
    assert variant.vectors_of == own.spec.digest != variant.spec.digest


def test_embeddings(encoder):
    out = encoder.encode(*query())
    assert out.dtype == np.float32
    assert out.shape == (2, DIM)
    assert np.allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)
    assert encoder.encode(*query(0)).shape == (0, DIM)


def test_threads_agree(encoder):
    feeds = [query(rows) for rows in range(1, 9)]
    expected = [encoder.encode(*feed) for feed in feeds]
    wrong = []

    def work():
        for feed, embedding in zip(feeds * 20, expected * 20, strict=True):
            if not np.array_equal(encoder.encode(*feed), embedding):
                wrong.append(len(feed[0]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


PIXELS, IDS, MASK = query()


@pytest.mark.parametrize(
    ("field", "feed"),
    [
        ("query.pixels", (PIXELS.astype(np.float32), IDS, MASK)),
        ("query.pixels", (PIXELS[:, :3], IDS, MASK)),
        ("query.pixels", (PIXELS[0], IDS, MASK)),
        ("query.token_ids", (PIXELS, IDS.astype(np.int32), MASK)),
        ("query.token_ids", (PIXELS, IDS[:1], MASK[:1])),
        ("query.token_ids", (PIXELS, IDS[:, :0], MASK[:, :0])),
        (
            "query.token_ids",
            (PIXELS, np.ones((2, MAX_TOKENS + 1), np.int64), np.ones((2, MAX_TOKENS + 1), np.int64)),
        ),
        ("query.token_mask", (PIXELS, IDS, MASK[:, :2])),
        ("query.token_mask", (PIXELS, IDS, MASK.astype(bool))),
    ],
)
def test_wrong_arrays_are_named(encoder, field, feed):
    with pytest.raises(InvalidArgumentError) as caught:
        encoder.encode(*feed)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("built", "metadata", "words"),
    [
        (graph(inputs=("image", "token_ids", "token_mask")), None, "must have the inputs"),
        (graph(output="vector"), None, "must have the inputs"),
        (graph(kind=TensorProto.FLOAT), None, "must have the inputs"),
        (graph(size="S"), None, "image size"),
        (graph(), {"attributary.name": "tiny"}, "max_tokens"),
        (graph(), {"attributary.max_tokens": "many"}, "max_tokens"),
    ],
)
def test_other_graphs_are_refused(tmp_path, built, metadata, words):
    with pytest.raises(BundleError, match=words) as caught:
        OnnxEncoder(write(tmp_path / "other.onnx", built, metadata))
    assert caught.value.file == "other.onnx"


def test_damaged_and_missing_files(tmp_path):
    path = write(tmp_path / "encoder.onnx")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BundleError, match="ONNX Runtime can load"):
        OnnxEncoder(path)
    with pytest.raises(BundleError, match="cannot be read"):
        OnnxEncoder(tmp_path / "missing.onnx")


def test_no_other_bytes_run_than_those_asked_for(tmp_path):
    path = write(tmp_path / "encoder.onnx")
    assert OnnxEncoder(path, digest=OnnxEncoder(path).spec.digest).spec.dim > 0
    with pytest.raises(BundleError, match=r"encoder.onnx: SHA-256 is .* it was changed"):
        OnnxEncoder(path, digest="0" * 64)


def test_providers_that_are_not_compiled_in(tmp_path):
    path = write(tmp_path / "encoder.onnx")
    assert OnnxEncoder(path, providers=("CPUExecutionProvider",)).providers == ("CPUExecutionProvider",)
    with pytest.raises(UnavailableError, match="no NoSuchExecutionProvider"):
        OnnxEncoder(path, providers=("NoSuchExecutionProvider", "CPUExecutionProvider"))
