"""The int8 encoder that an export brings: in the bundle if a server would open it, else left out and why is said."""

import shutil
import subprocess
import sys

import onnx
import pytest

from attributary.attribution.open import open_engine
from attributary.building import build_bundle
from attributary.bundle.files import sha256
from attributary.bundle.manifest import INT8_LEFT_OUT
from attributary.errors import BundleError


def run(*arguments):
    command = [sys.executable, "-m", "attributary.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def exported(tiny, tiny_encoder_dir, tmp_path):
    """Function: (seed of the variant, whose variant it says it is) -> an encoder's folder with an int8 file."""

    def made(seed, of=None):
        folder = tmp_path / "encoder"
        shutil.copytree(tiny_encoder_dir, folder)
        other = tiny.write_encoder(tmp_path / "other", seed)
        model = onnx.load(other / "encoder.onnx")
        facts = {entry.key: entry.value for entry in model.metadata_props}
        facts["attributary.variant_of"] = of or sha256(folder / "encoder.onnx")
        onnx.helper.set_model_props(model, facts)
        onnx.save(model, folder / "encoder.int8.onnx")
        return folder

    return made


def test_one_that_holds_is_in_the_bundle(exported, tiny_corpus_dir, tmp_path):
    build_bundle(tiny_corpus_dir, exported(3), tmp_path / "bundle", probes=40, limit=60, workers=2)
    assert "(fp32, int8)" in run("bundle", "verify", tmp_path / "bundle").stdout
    assert open_engine(tmp_path / "bundle", precision="int8").encoder.spec.name == "tiny-3"


def test_one_that_fails_is_left_out_and_every_command_says_why(exported, tiny_corpus_dir, tmp_path):
    out = tmp_path / "bundle"
    built = run(
        "bundle", "build", "--corpus", tiny_corpus_dir, "--encoder", exported(4), "--out", out, "--limit", 60
    )  # fmt: skip
    assert built.returncode == 0
    assert "the int8 encoder is left out of the bundle" in built.stderr
    assert not (out / "encoder.int8.onnx").exists()
    verified = run("bundle", "verify", out)
    assert verified.returncode == 0 and "(fp32)" in verified.stdout
    assert "no int8 encoder" in verified.stderr and "at least 0.97 is needed" in verified.stderr
    served = run("serve", out, "--precision", "int8", "--port", "0", "--metrics-port", "0")
    assert served.returncode == 2
    assert "left out when it was built: on the golden queries its cosine to fp32 is" in served.stderr
    assert "serve it with fp32" in served.stderr


def test_one_of_another_encoder_is_left_out(exported, tiny_corpus_dir, tmp_path):
    folder = exported(3, of="7" * 64)
    report = build_bundle(tiny_corpus_dir, folder, tmp_path / "bundle", probes=40, limit=60, workers=2)
    assert "variant of encoder 777777777777" in report.manifest.notes[INT8_LEFT_OUT]
    with pytest.raises(BundleError, match="not in this bundle, left out"):
        open_engine(tmp_path / "bundle", precision="int8")
