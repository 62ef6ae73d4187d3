"""TensorRT for RTX itself: the default encoder parses and builds on a machine without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
RELEASE = "1.7.1.116"
PACKAGES = [f"tensorrt-rtx-cu12{part}=={RELEASE}" for part in ("", "-bindings", "-libs")]
COMMAND = "from attributary.cli.build_engine import build_engine_command as run; run()"

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="session")
def rtx():
    """Folder with the package, apart from this environment; fetched once."""
    folder = ROOT / "out" / "cache" / f"tensorrt-rtx-{RELEASE}"
    if not (folder / "tensorrt_rtx").is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(folder),
            *PACKAGES,
        ]
        fetched = subprocess.run(command, capture_output=True, text=True, check=False)
        if fetched.returncode:
            pytest.skip(
                f"tensorrt-rtx {RELEASE} cannot be fetched: {fetched.stderr.strip().splitlines()[-1]}"
            )
    return folder


@pytest.fixture(scope="session")
def real_bundle(tiny_corpus_dir, tmp_path_factory):
    """A bundle around the project's own encoder."""
    encoder = ROOT / "out" / "encoder"
    if not (encoder / "encoder.onnx").is_file():
        pytest.skip("the default encoder is not exported; `make demo` does it")
    from attributary.building import build_bundle

    out = tmp_path_factory.mktemp("bundles") / "real"
    build_bundle(tiny_corpus_dir, encoder, out, limit=60, probes=16, workers=2)
    return out


def run(rtx, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(rtx)])}
    command = [sys.executable, "-c", COMMAND, *map(str, arguments), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=280)


@pytest.mark.parametrize(
    ("precision", "targets"),
    [("fp32", ["SM80"]), ("fp16", ["SM80", "SM86", "SM89", "SM120"])],
)
def test_default_encoder_builds(rtx, real_bundle, tmp_path, precision, targets):
    asked = [part for name in targets for part in ("--compute-capability", name)]
    done = run(rtx, "--bundle", real_bundle, "--out", tmp_path, "--precision", precision, *asked)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["runtime_version"] == RELEASE and record["compute_capabilities"] == targets
    assert (tmp_path / record["file"]).stat().st_size == record["bytes"] > 10 << 20
    assert record["engine_cosine"] is None


def test_dry_run_parses(rtx, real_bundle, tmp_path):
    done = run(rtx, "--bundle", real_bundle, "--out", tmp_path, "--dry-run")
    found = json.loads(done.stdout)
    assert found["parser"] == f"tensorrt_rtx {RELEASE}" and found["layers"] > 100


def test_unreadable_graph_is_said_in_the_parsers_words(rtx, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(np.random.default_rng(0).bytes(200))
    code = (
        "from pathlib import Path; from attributary.tensorrt import builder, EngineBuildError\n"
        f"try: builder.parse(builder.load('rtx'), Path({str(tmp_path / 'bad.onnx')!r}))\n"
        "except EngineBuildError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(rtx)])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert "does not parse bad.onnx" in done.stdout
