"""Building engines: what is refused, what is recorded, and that no engine is recorded whose golden queries fail."""

import contextlib
import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from attributary.bundle.bundle import Bundle
from attributary.cli.triton import build_engine_command
from attributary.encoder import OnnxEncoder
from attributary.errors import BundleError, InvalidArgumentError, UnavailableError
from attributary.triton import plans
from attributary.triton.plans import (
    Engines,
    Profile,
    Request,
    build_engine,
    check_plan,
    dry_run,
    hold_to_golden,
)
from attributary.triton.tensorrt import EngineBuildError, Gpu, build_plan

H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0")
PLAN = "encoder-fp32-11.4.0.106-nvidia-h100-80gb-hbm3.plan"


@pytest.fixture
def gpu_machine(monkeypatch, tiny_bundle_dir):
    """A machine that claims a GPU; its engines run on the CPU. Returns what the builder was given and the runner."""
    seen = {"embed": OnnxEncoder(tiny_bundle_dir / "encoder.onnx").encode, "caches": []}

    def fake_build(trt, graph, shapes, timings):
        seen.update(shapes=shapes)
        seen["caches"].append(timings)
        return b"plan", b"timed"

    monkeypatch.setattr(plans, "load_tensorrt", lambda: SimpleNamespace(__version__="11.4.0.106"))
    monkeypatch.setattr(plans, "build_plan", fake_build)
    monkeypatch.setattr(plans, "first_gpu", lambda: H100)
    monkeypatch.setattr(plans, "plan_embed", lambda trt, plan: contextlib.nullcontext(seen["embed"]))
    return seen


def request_for(bundle, out, **settings):
    return Request(bundle, out, **{"precision": "fp32", **settings})


def test_plan_is_keyed_by_gpu_and_version_and_recorded(gpu_machine, tiny_bundle_dir, tmp_path):
    record = build_engine(request_for(tiny_bundle_dir, tmp_path))
    assert record.file == PLAN
    assert (record.gpu, record.compute_capability, record.tensorrt) == (*H100, "11.4.0.106")
    assert record.engine_cosine > 0.9999 and record.graph_cosine > 0.9999
    engines = Engines.read(tmp_path)
    manifest = Bundle.open(tiny_bundle_dir).manifest
    assert (engines.bundle_id, engines.encoder_digest) == (manifest.bundle_id, manifest.encoder.digest)
    assert engines.engines == (record,)
    assert (tmp_path / PLAN).read_bytes() == b"plan"
    assert gpu_machine["shapes"]["pixels"] == ((1, 32, 32, 3), (8, 32, 32, 3), (32, 32, 32, 3))
    assert gpu_machine["shapes"]["token_mask"] == ((1, 1), (8, 16), (32, 16))


def test_timing_cache_reaches_the_next_build(gpu_machine, tiny_bundle_dir, tmp_path):
    for _ in range(2):
        build_engine(request_for(tiny_bundle_dir, tmp_path))
    assert gpu_machine["caches"] == [b"", b"timed"]
    assert len(Engines.read(tmp_path).engines) == 1


@pytest.mark.parametrize("damage", ["turned", "nan"])
def test_engine_that_fails_the_golden_queries_is_not_recorded(gpu_machine, tiny_bundle_dir, tmp_path, damage):
    embed = gpu_machine["embed"]

    def broken(pixels, ids, mask):
        found = embed(pixels, ids, mask).copy()
        # Only in a batch: an engine uses other kernels there.
        if len(found) > 1:
            found[1] = -found[1] if damage == "turned" else float("nan")
        return found

    gpu_machine["embed"] = broken
    with pytest.raises(BundleError, match=r"\.plan.*golden\.npz"):
        build_engine(request_for(tiny_bundle_dir, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_engines_of_another_encoder_are_kept_apart(gpu_machine, tiny_bundle_dir, tmp_path):
    text = json.dumps({"schema_version": 2, "bundle_id": "0" * 16, "encoder_digest": "f" * 64, "engines": []})
    (tmp_path / "engines.json").write_text(text)
    with pytest.raises(BundleError, match="belongs to encoder ffffffffffff"):
        build_engine(request_for(tiny_bundle_dir, tmp_path))


def test_a_plan_that_does_not_fit_is_refused(gpu_machine, tiny_bundle_dir, tmp_path):
    record = build_engine(request_for(tiny_bundle_dir, tmp_path))
    digest = Bundle.open(tiny_bundle_dir).manifest.encoder.digest
    plan = tmp_path / record.file
    check_plan(plan, digest, 32)
    for encoder, max_batch, problem in (
        ("f" * 64, 32, "of encoder"),
        (digest, 33, "batches up to 32; max_batch is 33"),
    ):
        with pytest.raises(InvalidArgumentError, match=problem):
            check_plan(plan, encoder, max_batch)
    plan.write_bytes(b"other")
    with pytest.raises(InvalidArgumentError, match="it was changed"):
        check_plan(plan, digest, 32)
    with pytest.raises(InvalidArgumentError, match="is not a file"):
        check_plan(tmp_path / "none.plan", digest, 32)
    # Built by something else, as trtexec: nothing is known of it.
    (tmp_path / "foreign.plan").write_bytes(b"plan")
    check_plan(tmp_path / "foreign.plan", digest, 64)


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 1}', '{"schema_version": 2}'])
def test_damaged_record_is_a_typed_error(tmp_path, text):
    (tmp_path / "engines.json").write_text(text)
    with pytest.raises(BundleError, match=r"engines\.json"):
        Engines.read(tmp_path)


def test_a_missing_package_is_named_before_any_work(tiny_bundle_dir, tmp_path, monkeypatch):
    with pytest.raises(UnavailableError, match="TensorRT cannot be imported"):
        build_engine(request_for(tiny_bundle_dir, tmp_path / "new"))
    monkeypatch.setattr(plans, "load_tensorrt", lambda: None)
    with pytest.raises(UnavailableError, match=r"cuda-bindings|CUDA"):
        build_engine(request_for(tiny_bundle_dir, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_dry_run_checks_the_graph_without_a_gpu(tiny_bundle_dir, tmp_path, precision):
    found = dry_run(request_for(tiny_bundle_dir, tmp_path / "none", precision=precision))
    assert found.graph_cosine > 0.999 and "pip install" in found.missing
    assert not (tmp_path / "none").exists()


class FakeTensorRt:
    """As much of the module `tensorrt` as parses a graph; `problems` are what its parser finds wrong."""

    __version__ = "11.4.0.106"
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    problems = ()
    starts = True

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    def Builder(self, logger):  # noqa: N802
        if not self.starts:
            logger.log(1, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return SimpleNamespace(create_network=lambda flags: None)

    def OnnxParser(self, network, logger):  # noqa: N802
        return SimpleNamespace(
            parse_from_file=lambda path: not self.problems,
            num_errors=len(self.problems),
            get_error=lambda number: self.problems[number],
        )


def test_unreadable_graph_is_said_in_the_parsers_words(tmp_path):
    trt = FakeTensorRt()
    trt.problems = [SimpleNamespace(node_name=lambda: "conv1", desc=lambda: "no kernel")]
    with pytest.raises(EngineBuildError, match=r"does not parse bad\.onnx: conv1: no kernel"):
        build_plan(trt, tmp_path / "bad.onnx", {}, b"")


def test_no_driver_is_said_in_tensorrts_words(tmp_path):
    trt = FakeTensorRt()
    trt.starts = False
    with pytest.raises(UnavailableError, match="CUDA initialization failure"):
        build_plan(trt, tmp_path / "graph.onnx", {}, b"")


def test_golden_check_sees_a_wrong_size(tiny_bundle_dir):
    golden = Bundle.open(tiny_bundle_dir).golden
    with pytest.raises(BundleError, match="embeddings"):
        hold_to_golden(lambda pixels, ids, mask: golden.embeddings[: len(pixels), :3], golden, "fp32", "x", 4)


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_unknown_precisions(precision, tiny_bundle_dir, tmp_path):
    with pytest.raises(InvalidArgumentError) as caught:
        request_for(tiny_bundle_dir, tmp_path, precision=precision)
    assert caught.value.field == "precision"


@pytest.mark.parametrize("sizes", [{"opt_batch": 0}, {"opt_batch": 33}, {"opt_tokens": 0}])
def test_wrong_profiles(sizes):
    with pytest.raises(InvalidArgumentError):
        Profile(**sizes)


def test_output_inside_the_bundle_is_refused(tiny_bundle_dir):
    with pytest.raises(InvalidArgumentError, match="immutable"):
        dry_run(request_for(tiny_bundle_dir, tiny_bundle_dir / "engines"))


@pytest.mark.parametrize("dry", [False, True])
def test_command_prints_json_or_a_line(dry, gpu_machine, tiny_bundle_dir, tmp_path):
    arguments = [f"--bundle={tiny_bundle_dir}", f"--out={tmp_path}", "--precision=fp16", *["--dry-run"] * dry]
    result = CliRunner().invoke(build_engine_command, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(result.output)["precision"] == "fp16"
    result = CliRunner().invoke(build_engine_command, arguments, catch_exceptions=False)
    assert "smallest cosine to the golden queries" in result.output
