"""What `materialize` writes, without a server."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from attributary.attribution.open import open_engine
from attributary.errors import BundleError, InvalidArgumentError, UnavailableError
from attributary.triton import templates
from attributary.triton.materialize import Settings, materialize, served_bundle
from attributary.triton.plans import EngineRecord, Engines, Profile
from attributary.triton.templates import model_name, parse
from tritonserver.container import bundles_of


@pytest.fixture
def bundle(tiny_bundle_dir):
    return open_engine(tiny_bundle_dir, verify=False).bundle


def config(repository, name):
    return (repository / name / "config.pbtxt").read_text()


def test_facts_of_the_bundle(tiny_bundle_dir, bundle, tmp_path):
    bundle_id = materialize(tiny_bundle_dir, tmp_path / "repository")
    assert bundle_id == bundle.manifest.bundle_id
    assert served_bundle(tmp_path / "repository") == bundle_id
    text = config(tmp_path / "repository", f"index_{bundle_id}")
    found = dict(
        re.findall(r'^parameters \{ key: "(\w+)" value \{ string_value: "([^"]*)" \} \}$', text, re.MULTILINE)
    )
    manifest = bundle.manifest
    assert int(found["items"]) == 300
    assert int(found["nprobe"]) == manifest.index.nprobe
    assert int(found["candidates"]) == manifest.index.candidates
    assert found["sha256_vectors"] == manifest.files["vectors.npy"]
    assert not re.search(r"\$\w", "".join(path.read_text() for path in tmp_path.rglob("config.pbtxt")))


def test_the_two_backends_differ_in_one_line(tiny_bundle_dir, tmp_path):
    bundle_id = materialize(tiny_bundle_dir, tmp_path / "a")
    materialize(tiny_bundle_dir, tmp_path / "b", Settings(index_backend="faiss"))
    pair = [config(tmp_path / side, f"index_{bundle_id}").splitlines() for side in "ab"]
    different = [lines for lines in zip(*pair, strict=True) if lines[0] != lines[1]]
    assert different == [('backend: "python"', 'backend: "faiss"')]


@pytest.mark.parametrize("plan", [False, True])
def test_a_gpu_repository(plan, tiny_bundle_dir, tmp_path):
    (tmp_path / "engine").write_bytes(b"plan")
    settings = Settings(target="gpu", index_backend="faiss", plan=tmp_path / "engine" if plan else None)
    bundle_id = materialize(tiny_bundle_dir, tmp_path / "repository", settings)
    folder = tmp_path / "repository" / f"encoder_{bundle_id}"
    assert (folder / "1" / ("model.plan" if plan else "model.onnx")).is_file()
    text = (folder / "config.pbtxt").read_text()
    assert f'backend: "{"tensorrt" if plan else "onnxruntime"}"' in text
    assert "KIND_GPU" in text
    assert "KIND_GPU" in config(tmp_path / "repository", f"index_{bundle_id}")


def test_a_plan_of_another_encoder_is_refused_and_nothing_written(tiny_bundle_dir, tmp_path):
    (tmp_path / "engine.plan").write_bytes(b"plan")
    record = EngineRecord("engine.plan", "0" * 64, 4, "10.13", "fp16", "A10", "8.6", Profile(), 1.0, 1.0, 1.0)
    Engines("0" * 16, "f" * 64).add(record, tmp_path)
    with pytest.raises(InvalidArgumentError, match="of encoder ffffffffffff"):
        materialize(
            tiny_bundle_dir, tmp_path / "repository", Settings(target="gpu", plan=tmp_path / "engine.plan")
        )
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    "file", ["encoder.onnx", "index.faiss", "vectors.npy", "items.parquet", "manifest.json"]
)
def test_a_bundle_that_was_changed_is_refused_and_nothing_written(file, tiny_bundle_dir, tmp_path):
    changed = tmp_path / "bundle"
    shutil.copytree(tiny_bundle_dir, changed)
    data = bytearray((changed / file).read_bytes())
    data[len(data) // 2] ^= 0x55
    (changed / file).write_bytes(data)
    with pytest.raises(BundleError, match=re.escape(file)):
        materialize(changed, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_second_bundle_takes_the_aliases_and_keeps_the_first(tiny_bundle_dir, other_bundle_dir, tmp_path):
    first = materialize(tiny_bundle_dir, tmp_path)
    second = materialize(other_bundle_dir, tmp_path)
    assert served_bundle(tmp_path) == second
    assert {parse(path.name) for path in tmp_path.iterdir()} - {None} == {
        (part, bundle_id) for part in ("encoder", "index", "attribution") for bundle_id in (first, second)
    }
    steps = re.findall(r'model_name: "(\w+)"', config(tmp_path, "attribution"))
    assert steps == [model_name("encoder", second), model_name("index", second)]


def test_a_failed_write_leaves_the_model_before(tiny_bundle_dir, tmp_path, monkeypatch):
    bundle_id = materialize(tiny_bundle_dir, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(OSError, match="disk full"):
        materialize(tiny_bundle_dir, tmp_path, Settings(index_backend="faiss"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert served_bundle(tmp_path) == bundle_id


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_batch": 0}, "max_batch"),
        ({"encoder_instances": -1}, "encoder_instances"),
        ({"plan": "x"}, "plan"),
    ],
)
def test_settings_out_of_range(settings, field):
    with pytest.raises(InvalidArgumentError) as caught:
        Settings(**settings)
    assert caught.value.field == field


def test_values_stay_within_their_quotes(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "config.pbtxt").write_text('name: "$name"')
    monkeypatch.setattr(templates, "folder", lambda: tmp_path)
    assert templates.fill("index/config.pbtxt", {"name": 'a" \\'}) == 'name: "a\\" \\\\"'


@pytest.mark.parametrize("path", ["/bundles/one", '/odd "name"/\\n # {}', "/bündel"])
def test_any_path_of_a_bundle_is_read_back(path, tiny_bundle_dir, bundle, tmp_path):
    materialize(tiny_bundle_dir, tmp_path, Settings(served_path=path))
    assert bundles_of(tmp_path) == {Path(path)}
    assert served_bundle(tmp_path) == bundle.manifest.bundle_id


def test_an_alias_has_its_targets_tensors_and_nothing_of_its_queue(tiny_bundle_dir, tmp_path):
    bundle_id = materialize(tiny_bundle_dir, tmp_path, Settings(max_queue=7))
    alias = templates.parse_config(config(tmp_path, "index"))
    target = templates.parse_config(config(tmp_path, f"index_{bundle_id}"))
    assert [tensor.name for tensor in alias.input] == ["embedding", "filter"]
    assert [tensor.optional for tensor in alias.input] == [False, True]
    assert not any(tensor.allow_ragged_batch for tensor in alias.input)
    assert (list(alias.output), alias.max_batch_size) == (list(target.output), target.max_batch_size)
    [step] = alias.ensemble_scheduling.step
    assert (step.model_name, dict(step.input_map)) == (
        f"index_{bundle_id}",
        {name: name for name in ("embedding", "filter")},
    )
    assert target.dynamic_batching.default_queue_policy.max_queue_size == 7
    assert not alias.HasField("dynamic_batching") and not alias.instance_group


def test_without_tritonclient_the_extra_is_named_and_nothing_written(tiny_bundle_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.model_config_pb2", None)
    with pytest.raises(UnavailableError, match=r"attributary\[triton\]"):
        materialize(tiny_bundle_dir, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_config_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "attribution").mkdir()
    (tmp_path / "attribution" / "config.pbtxt").write_text("name: {")
    with pytest.raises(InvalidArgumentError, match=r"attribution/config\.pbtxt cannot be read"):
        served_bundle(tmp_path)


@pytest.mark.parametrize(
    "name", ["index", "index_", "index_12", "other_0123456789abcdef", "index_0123456789abcdeg"]
)
def test_names_that_are_no_bundles(name):
    assert parse(name) is None
