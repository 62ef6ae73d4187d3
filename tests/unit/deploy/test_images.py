"""Dockerfiles and the compose file: linted, checked against their schema, and true of the repository."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from attributary.cli.serve import serve_command

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))


def tool(name):
    """A program of this environment."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: it is in the extra `dev`")
    return found


def services():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_is_clean(path):
    done = subprocess.run([tool("hadolint"), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_is_pinned_unprivileged_and_watched(path):
    text = path.read_text()
    for tag in re.findall(r"^ARG (?:PYTHON|TRITON|CUDA)=(.*)$", text, re.MULTILINE):
        assert re.match(r"\d+\.\d+", tag)
    assert "latest" not in text
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    assert "\nHEALTHCHECK " in text


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_reaches_the_builder(path):
    allowed = (path.parent / f"{path.name}.dockerignore").read_text().splitlines()
    allowed = [line.removeprefix("!") for line in allowed if line.startswith("!")]
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", path.read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), f"{source} is not in the repository"
        assert source in allowed, f"{source} does not reach the builder"


def test_cmake_options_and_target_exist():
    text = (DEPLOY / "docker" / "triton.Dockerfile").read_text()
    asked = set(re.findall(r"-D(ATTRIBUTARY_\w+)=", text))
    lists = "".join(
        path.read_text() for path in [ROOT / "CMakeLists.txt", *ROOT.glob("kernels/**/CMakeLists.txt")]
    )
    assert asked <= set(re.findall(r"option\(\s*(ATTRIBUTARY_\w+)", lists))
    assert re.search(r"add_library\(\s*triton_faiss\b", lists)
    assert "${CMAKE_BINARY_DIR}/backends/faiss" in lists and "/build/attributary/backends/faiss/" in text


def test_the_image_that_materialises_holds_the_templates():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]
    assert build["wheel"]["packages"]["attributary/triton/model_repository"] == "model_repository"


def test_compose_file_fits_its_schema():
    command = [
        tool("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        str(DEPLOY / "compose.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_compose_names_what_exists():
    known = {option.envvar for option in serve_command.params if option.envvar}
    profiles = {}
    for name, service in services().items():
        assert ":" in service["image"] and not service["image"].endswith(":latest")
        variables = set(service.get("environment", {}))
        assert {variable for variable in variables if variable.startswith("ATTRIBUTARY_")} <= known
        assert set(service.get("depends_on", {})) <= set(services())
        for profile in service["profiles"]:
            profiles.setdefault(profile, set()).add(name)
        for volume in service["volumes"]:
            if isinstance(volume, str) and volume.startswith("./"):
                assert (DEPLOY / volume.split(":")[0]).exists(), volume
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert profiles["triton"] >= {"gateway", "triton", "prometheus", "grafana"}
    assert profiles["embedded"] >= {"gateway-embedded", "prometheus", "grafana"}


def test_compose_ports_stay_on_this_machine():
    for service in services().values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_compose_materialize_takes_its_options():
    from attributary.cli.triton import triton_group

    group, verb, *arguments = services()["materialize"]["command"]
    assert (group, verb) == ("triton", "materialize")
    known = {name for option in triton_group.commands["materialize"].params for name in option.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known


def healthcheck(port, **environment):
    command = [sys.executable, str(DEPLOY / "docker" / "healthcheck.py")]
    variables = {**os.environ, "ATTRIBUTARY_PORT": str(port), **environment}
    return subprocess.run(command, env=variables, check=False, timeout=60).returncode


def test_healthcheck_asks_a_real_gateway(server):
    port = server.address.split(":")[1]
    assert healthcheck(port) == 0
    assert healthcheck(port, ATTRIBUTARY_TLS_CERT="/tls/tls.crt") == 0


def test_healthcheck_fails_where_nobody_serves():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        assert healthcheck(port) == 1
        assert healthcheck(port, ATTRIBUTARY_TLS_CERT="/tls/tls.crt") == 1


def test_healthcheck_is_a_module_of_its_own():
    spec = importlib.util.spec_from_file_location("healthcheck", DEPLOY / "docker" / "healthcheck.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TIMEOUT_S < 5, "the image's HEALTHCHECK gives up after 5 s"
