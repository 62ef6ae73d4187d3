"""Building engines: what is refused, what is recorded, and that no engine is recorded whose golden queries fail."""

import contextlib
import json

import pytest

from attributary.bundle.bundle import Bundle
from attributary.errors import BundleError, InvalidArgumentError, NotFoundError, UnavailableError
from attributary.tensorrt import (
    Engines,
    Profile,
    Request,
    build,
    build_engine,
    builder,
    dry_run,
    verify_engine,
)
from attributary.tensorrt.device import Gpu
from attributary.tensorrt.golden import hold_to_golden, onnx_runner

H100 = Gpu("NVIDIA H100 80GB HBM3", "SM90", 80 << 30)


class FakeTensorRt:
    """Stands for the module `tensorrt`; the tests replace the builder that would use it."""

    __name__, __version__ = "tensorrt", "11.4.0.106"

    class ComputeCapability:
        __members__ = {"NONE": 0, "CURRENT": 1, "SM80": 2, "SM120": 3}  # noqa: RUF012


@pytest.fixture
def gpu_machine(monkeypatch, tiny_bundle_dir):
    """A machine that claims a GPU; its engines run on the CPU. Returns what the builder was given and the runner."""
    seen = {"embed": onnx_runner(tiny_bundle_dir / "encoder.onnx", ["CPUExecutionProvider"]), "caches": []}

    def fake_build(trt, graph, shapes, targets=(), timing_cache=None):
        seen.update(shapes=shapes, targets=targets)
        seen["caches"].append(timing_cache)
        return builder.Built(b"plan", 7, b"timed")

    monkeypatch.setattr(builder, "load", lambda runtime: FakeTensorRt)
    monkeypatch.setattr(builder, "build", fake_build)
    monkeypatch.setattr(build, "first_gpu", lambda: H100)
    monkeypatch.setattr(build, "plan_runner", lambda trt, plan: contextlib.nullcontext(seen["embed"]))
    return seen


def request_for(bundle, out, **settings):
    return Request(bundle, out, **{"runtime": "tensorrt", "precision": "fp32", **settings})


def test_plan_is_keyed_by_gpu_and_version_and_recorded(gpu_machine, tiny_bundle_dir, tmp_path):
    record = build_engine(request_for(tiny_bundle_dir, tmp_path))
    assert record.file == "encoder-fp32-tensorrt-11.4.0.106-nvidia-h100-80gb-hbm3.plan"
    assert (record.gpu, record.compute_capabilities) == (H100.name, ("SM90",))
    assert record.engine_cosine > 0.9999 and record.graph_cosine > 0.9999
    engines = Engines.read(tmp_path)
    manifest = Bundle.open(tiny_bundle_dir).manifest
    assert (engines.bundle_id, engines.encoder_digest) == (manifest.bundle_id, manifest.encoder.digest)
    assert engines.engines == (record,)
    assert verify_engine(tmp_path, record).read_bytes() == b"plan"
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


def test_rtx_engine_says_whether_it_ever_ran(gpu_machine, monkeypatch, tiny_bundle_dir, tmp_path):
    made = build_engine(
        request_for(tiny_bundle_dir, tmp_path, runtime="rtx", compute_capabilities=("SM80", "SM120"))
    )
    assert made.engine_cosine is None and made.gpu is None
    assert gpu_machine["targets"] == ("SM80", "SM120") and made.file.endswith("-sm80-sm120.plan")
    monkeypatch.setattr(build, "first_gpu", lambda: Gpu("NVIDIA A100", "SM80", 1))
    assert build_engine(
        request_for(tiny_bundle_dir, tmp_path, runtime="rtx", compute_capabilities=("SM80",))
    ).gpu


def test_unknown_target_is_refused_before_any_work(gpu_machine, tiny_bundle_dir, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"SM90 is no target .* it builds SM80, SM120"):
        build_engine(
            request_for(tiny_bundle_dir, tmp_path / "new", runtime="rtx", compute_capabilities=("SM90",))
        )
    assert not (tmp_path / "new").exists()


def test_engines_of_another_encoder_are_kept_apart(gpu_machine, tiny_bundle_dir, tmp_path):
    Engines("0" * 16, "f" * 64).write(tmp_path)
    with pytest.raises(BundleError, match="belongs to encoder ffffffffffff"):
        build_engine(request_for(tiny_bundle_dir, tmp_path))


def test_changed_engine_is_found_out(gpu_machine, tiny_bundle_dir, tmp_path):
    record = build_engine(request_for(tiny_bundle_dir, tmp_path))
    (tmp_path / record.file).write_bytes(b"other")
    with pytest.raises(BundleError, match="it was changed"):
        verify_engine(tmp_path, record)


def test_select_names_what_is_missing(gpu_machine, tiny_bundle_dir, tmp_path):
    record = build_engine(request_for(tiny_bundle_dir, tmp_path))
    engines = Engines.read(tmp_path)
    assert engines.select("tensorrt", gpu=H100.name, precision="fp32") == record
    with pytest.raises(NotFoundError, match="tensorrt fp16 for NVIDIA L4"):
        engines.select("tensorrt", gpu="NVIDIA L4", precision="fp16")


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 1}', '{"schema_version": 9}'])
def test_damaged_record_is_a_typed_error(tmp_path, text):
    (tmp_path / "engines.json").write_text(text)
    with pytest.raises(BundleError, match=r"engines\.json"):
        Engines.read(tmp_path)


def test_no_gpu_is_said_in_words(tiny_bundle_dir, tmp_path):
    for runtime in ("tensorrt", "ort-tensorrt", "ort-cuda"):
        with pytest.raises(UnavailableError, match=r"cuda-bindings|CUDA"):
            build_engine(request_for(tiny_bundle_dir, tmp_path, runtime=runtime))


def test_provider_never_falls_back_quietly(tiny_bundle_dir):
    with pytest.raises(UnavailableError, match="CUDAExecutionProvider"):
        onnx_runner(tiny_bundle_dir / "encoder.onnx", ["CUDAExecutionProvider"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_dry_run_checks_the_graph_without_a_gpu(tiny_bundle_dir, tmp_path, precision):
    found = dry_run(request_for(tiny_bundle_dir, tmp_path / "none", runtime="tensorrt", precision=precision))
    assert found.graph_cosine > 0.999 and found.image_size == 32
    assert found.parser is not None or found.reason
    assert not (tmp_path / "none").exists()


def test_golden_check_sees_a_wrong_size(tiny_bundle_dir):
    golden = Bundle.open(tiny_bundle_dir).golden
    with pytest.raises(BundleError, match="embeddings"):
        hold_to_golden(lambda pixels, ids, mask: golden.embeddings[: len(pixels), :3], golden, "fp32", "x", 4)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"runtime": "cuda"}, "runtime"),
        ({"precision": "fp8"}, "precision"),
        ({"compute_capabilities": ("SM80",)}, "compute_capability"),
        ({"calibration": "."}, "calibration"),
    ],
)
def test_wrong_requests(tiny_bundle_dir, tmp_path, settings, field):
    with pytest.raises(InvalidArgumentError) as caught:
        request_for(tiny_bundle_dir, tmp_path, **settings)
    assert caught.value.field == field


@pytest.mark.parametrize("sizes", [{"opt_batch": 0}, {"opt_batch": 33}, {"min_batch": 0}, {"opt_tokens": 0}])
def test_wrong_profiles(sizes):
    with pytest.raises(InvalidArgumentError):
        Profile(**sizes)


def test_output_inside_the_bundle_is_refused(tiny_bundle_dir):
    with pytest.raises(InvalidArgumentError, match="immutable"):
        dry_run(request_for(tiny_bundle_dir, tiny_bundle_dir / "engines"))


def test_command_prints_json(gpu_machine, tiny_bundle_dir, tmp_path):
    from click.testing import CliRunner

    from attributary.cli.build_engine import build_engine_command

    arguments = [
        "--bundle",
        tiny_bundle_dir,
        "--out",
        tmp_path,
        "--runtime",
        "tensorrt",
        "--precision",
        "fp16",
    ]
    result = CliRunner().invoke(
        build_engine_command, [*map(str, arguments), "--json"], catch_exceptions=False
    )
    assert json.loads(result.output)["precision"] == "fp16"
