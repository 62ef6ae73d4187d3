"""A bundle made from a student whose parts were swapped afterwards, hashes and all, is refused by name."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attributary.attribution.open import open_engine
from attributary.building import build_from_student
from attributary.bundle.files import sha256
from attributary.bundle.manifest import MANIFEST, Manifest
from attributary.bundle.parse import parse
from attributary.errors import BundleError


@pytest.fixture(scope="module")
def built(students, tiny_bundle_dir, tiny_encoder_dir, tiny_corpus_dir, picture, tmp_path_factory):
    root = tmp_path_factory.mktemp("student")
    ids, vectors = students.vectors_of(tiny_bundle_dir)
    student = students.write_student(root / "student", tiny_encoder_dir, ids, vectors)
    asked = students.write_queries(root / "asked", [picture(number) for number in range(4)])
    build_from_student(student, tiny_corpus_dir, asked, root / "bundle")
    return root / "bundle"


@pytest.fixture
def bundle(built, tmp_path):
    return shutil.copytree(built, tmp_path / "bundle")


def make_hashes_right(bundle, **entries):
    raw = json.loads((bundle / MANIFEST).read_text())
    raw["files"] = {name: sha256(bundle / name) for name in raw["files"]}
    for path, value in entries.items():
        part, _, name = path.partition("__")
        raw[part][name] = value
    del raw["bundle_id"], raw["delta"]
    parse(Manifest, raw).write(bundle)


def test_another_student_s_encoder(bundle, tiny):
    tiny.write_encoder(bundle, seed=9)
    make_hashes_right(bundle)
    with pytest.raises(BundleError, match="do not belong together") as caught:
        open_engine(bundle)
    assert caught.value.file == "encoder.onnx"


def test_another_student_s_encoder_that_claims_the_vectors(bundle, tiny):
    tiny.write_encoder(bundle, seed=9)
    digest = sha256(bundle / "encoder.onnx")
    make_hashes_right(bundle, encoder__digest=digest, index__encoder_digest=digest)
    with pytest.raises(BundleError, match=r"disagrees with golden\.npz") as caught:
        open_engine(bundle)
    assert caught.value.file == "encoder (fp32)"


def test_an_onnx_file_whose_weights_were_touched(bundle):
    model = onnx.load(bundle / "encoder.onnx")
    table = next(one for one in model.graph.initializer if one.name == "weight")
    table.CopyFrom(numpy_helper.from_array(np.float32(0.6), "weight"))
    onnx.save(model, bundle / "encoder.onnx")
    digest = sha256(bundle / "encoder.onnx")
    make_hashes_right(bundle, encoder__digest=digest, index__encoder_digest=digest)
    with pytest.raises(BundleError, match=r"disagrees with golden\.npz: cosine"):
        open_engine(bundle)


def test_another_student_s_vectors(bundle):
    vectors = np.load(bundle / "vectors.npy")
    np.save(bundle / "vectors.npy", vectors[::-1])
    make_hashes_right(bundle)
    with pytest.raises(BundleError, match=r"disagrees with golden\.npz"):
        open_engine(bundle)


def test_shares_of_another_calibration(bundle):
    raw = json.loads((bundle / MANIFEST).read_text())["calibration"]
    make_hashes_right(bundle, calibration__image={**raw["image"], "temperature": 0.5, "background": 0.0})
    with pytest.raises(BundleError, match="diffuse share is"):
        open_engine(bundle)
