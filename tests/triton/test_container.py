"""`tools/serve_triton.py --image`: a fake docker runs the real server and keeps its arguments."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.triton.materialize import Settings, materialize
from tritonserver.container import Container, bundles_of, find_container

from .test_launcher import CLI, PORTS

# Like docker: the command of the container is run and its status is ours; every call is written down.
FAKE = """#!{python}
import json, os, sys
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "run":
    at = sys.argv.index("tritonserver")
    given = dict(word.removeprefix("--env=").split("=", 1) for word in sys.argv[:at] if word.startswith("--env="))
    path = {path!r} + os.pathsep + os.environ["PATH"]
    os.execve({binary!r}, [{binary!r}, "--backend-directory={backends}", *sys.argv[at + 1:]],
              {{**os.environ, "LD_LIBRARY_PATH": {libraries!r}, "PATH": path, **given}})
"""


@pytest.fixture
def docker(installation, tmp_path, monkeypatch):
    """A folder in PATH that holds a fake docker; returns a function that gives its calls."""
    if installation.backends is None:
        pytest.skip("needs the tritonserver of the wheel")
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    program = folder / "docker"
    program.write_text(
        FAKE.format(
            python=sys.executable,
            calls=str(calls),
            binary=str(installation.binary),
            backends=installation.backends,
            path=installation.environment["PATH"],
            libraries=installation.environment.get("LD_LIBRARY_PATH", ""),
        )
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return lambda: [json.loads(line) for line in calls.read_text().splitlines()]


def test_a_container_serves_and_is_removed(docker, tiny_bundle_dir, tmp_path):
    flags = [
        "--image",
        "nvcr.io/nvidia/tritonserver:25.08-py3",
        "--gpus",
        "device=0",
        "--mount",
        str(tmp_path),
    ]
    command = [*CLI, "--bundle", str(tiny_bundle_dir), *PORTS, "--encoder-instances", "1", *flags]
    command += ["--exit-s", "3", "--", "--log-verbose=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        assert json.loads(line)["ready"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    run, remove = docker()
    image = run.index("nvcr.io/nvidia/tritonserver:25.08-py3")
    before, after = run[:image], run[image + 1 :]
    assert before[:2] == ["run", "--rm"]
    assert {"--network=host", "--ipc=host", "--gpus=device=0"} <= set(before)
    shown = [word.removeprefix("--volume=").split(":") for word in before if word.startswith("--volume=")]
    assert all(source == target and mode == "ro" for source, target, mode in shown)
    assert {str(tiny_bundle_dir.resolve()), str(tmp_path.resolve())} <= {source for source, _, _ in shown}
    assert after[0] == "tritonserver"
    assert after[-1] == "--log-verbose=0"
    name = before[before.index("--name") + 1]
    assert remove == ["rm", "--force", name]


def test_the_backend_is_mounted_where_triton_looks(tiny_bundle_dir, tmp_path):
    materialize(tiny_bundle_dir, tmp_path / "repository", Settings(encoder_instances=1))
    assert bundles_of(tmp_path / "repository") == {tiny_bundle_dir.resolve()}
    container = Container(Path("/usr/bin/podman"), "triton", gpus="all")
    library = tmp_path / "libtriton_faiss.so"
    command = container.command(
        "a", tmp_path / "repository", ["--x"], environment={"A": "1"}, faiss_backend=library, package=tmp_path
    )
    assert f"--volume={library}:/opt/tritonserver/backends/faiss/libtriton_faiss.so:ro" in command
    assert "--device=nvidia.com/gpu=all" in command
    assert command[-4:] == ["--env=A=1", "triton", "tritonserver", "--x"]


def test_without_docker_and_podman(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="docker or podman"):
        find_container("triton")
    (tmp_path / "podman").write_text("#!/bin/sh\n")
    (tmp_path / "podman").chmod(0o755)
    assert find_container("triton").program == tmp_path / "podman"


@pytest.mark.parametrize("image", ["", "--privileged", "a b"])
def test_names_that_are_no_image(image):
    with pytest.raises(InvalidArgumentError, match="image"):
        find_container(image)


def test_a_mount_that_is_not_there(tmp_path):
    with pytest.raises(InvalidArgumentError, match="does not exist"):
        find_container("triton", mounts=[tmp_path / "nowhere"])


def test_gpus_are_a_containers():
    done = subprocess.run(
        [*CLI, "--bundle", "x", "--gpus", "all"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "give --image" in done.stderr
