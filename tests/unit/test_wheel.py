"""The compiled wheel, in an environment that has nothing and finds no compiler."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
# Compiling and fetching take minutes.
@pytest.mark.timeout(1_800)
@pytest.mark.network
def test_a_wheel_installs_and_serves_without_a_compiler(tmp_path, tiny_bundle_dir):
    options = ["--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", *options], check=True, timeout=900)
    [wheel] = tmp_path.glob("attributary-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "attributary/v1/attribution.proto",
        "attributary/v1/attribution_pb2.py",
        "attributary/gateway/http/static/index.html",
        "attributary/gateway/http/openapi.json",
        "attributary/batch/report.html.jinja",
    } <= names
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "empty")], check=True, timeout=120)
    python = tmp_path / "empty" / "bin" / "python"
    # No compiler and nothing of this environment.
    nothing = {"PATH": str(python.parent), "HOME": os.environ.get("HOME", "/")}
    kept = {
        name: value for name, value in os.environ.items() if name.lower().startswith(("pip_", "http", "ssl_"))
    }
    install = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "-c",
        str(ROOT / "constraints.txt"),
        f"{wheel}[http,triton]",
    ]
    subprocess.run(install, check=True, timeout=900, env={**kept, **nothing})
    doctor = subprocess.run(
        [python.parent / "attributary", "doctor"],
        capture_output=True,
        text=True,
        check=True,
        env=nothing,
        timeout=60,
    )
    assert "NumPy in place" not in doctor.stdout
    verified = subprocess.run(
        [python.parent / "attributary", "bundle", "verify", str(tiny_bundle_dir)],
        capture_output=True, text=True, check=True, env=nothing, timeout=120,
    )  # fmt: skip
    assert "golden queries" in verified.stdout


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.network
def test_the_demo_and_the_page_answer_from_wheels():
    script = ROOT / "packaging" / "first_answer.py"
    ran = subprocess.run(
        [sys.executable, str(script), "--json"], capture_output=True, text=True, check=True, timeout=1_700
    )
    told = json.loads(ran.stdout)
    assert told["demo_answers"] == 12 and told["serve_to_first_answer_s"] > 0 and len(told["wheels"]) == 2
