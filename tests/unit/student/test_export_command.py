"""`attributary-train export`: a graph that holds to the golden queries is written; anything else is refused by name."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from attributary.bundle.bundle import Bundle
from attributary.encoder.onnx import OnnxEncoder
from attributary_train.student.export_command import export


def ask(*arguments):
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_is_written_that_embeds_as_the_bundles(tiny_bundle_dir, tmp_path, precision):
    answer = ask("--bundle", tiny_bundle_dir, "--out", tmp_path / "out", "--precision", precision)
    assert answer.exit_code == 0 and "golden queries hold" in answer.output
    [written] = (tmp_path / "out").iterdir()
    bundle = Bundle.open(tiny_bundle_dir)
    assert bundle.manifest.encoder.digest[:12] in written.name and precision in written.name
    golden = bundle.golden
    found = OnnxEncoder(written).encode(golden.pixels, golden.token_ids, golden.token_mask)
    assert (np.sum(found * golden.embeddings, axis=1) > 0.999).all()


def test_a_dry_run_of_an_engine_needs_no_gpu_and_writes_nothing(tiny_bundle_dir, tmp_path):
    answer = ask("--bundle", tiny_bundle_dir, "--out", tmp_path / "out", "--tensorrt", "--dry-run")
    assert answer.exit_code == 0
    found = json.loads(answer.output)
    assert found["graph_cosine"] > 0.999 and "pip install" in found["missing"]
    assert not (tmp_path / "out").exists()


def test_a_folder_inside_the_bundle_is_refused(tiny_bundle_dir):
    answer = ask("--bundle", tiny_bundle_dir, "--out", tiny_bundle_dir / "engines")
    assert answer.exit_code == 1 and "must not lie inside the bundle" in answer.output
    assert not (tiny_bundle_dir / "engines").exists()
