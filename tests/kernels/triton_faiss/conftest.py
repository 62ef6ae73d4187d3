"""Builds the backend, writes small index models of every kind, and runs a real tritonserver on them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from attributary.errors import UnavailableError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"triton_faiss_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


models = _load("models")
builder = _load("builder")


@pytest.fixture(scope="session")
def build() -> Path:
    """The build folder, up to date; skips where the backend cannot be built."""
    try:
        return builder.build(ROOT)
    except builder.CannotBuildError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def backend(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that a build beside these tests cannot change what the server has loaded."""
    built = build / "backends" / "faiss" / "libtriton_faiss.so"
    return Path(shutil.copy(built, tmp_path_factory.mktemp("backend")))


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for kind in models.KINDS:
        models.write_model(folder, f"index_{kind}", models.write_bundle(folder.parent / kind, kind))
    models.write_attribution(folder, "index_flat")
    return folder


@pytest.fixture(scope="session")
def server(backend: Path, repository: Path) -> Iterator[object]:
    """A real tritonserver with the backend and a model of every kind."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    from tritonserver.install import find
    from tritonserver.server import Ports, TritonServer

    try:
        installation = find()
    except UnavailableError as error:
        pytest.skip(f"no tritonserver: {error}")
    ports = Ports(grpc=0, http=0, metrics=0)
    with TritonServer(
        repository,
        ports=ports,
        faiss_backend=backend,
        installation=installation,
        ready_s=60,
        exit_s=5,
        log=repository.parent / "tritonserver.log",
    ) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: object) -> Iterator[object]:
    import tritonclient.grpc

    with tritonclient.grpc.InferenceServerClient(server.grpc_address) as opened:
        yield opened


@pytest.fixture(scope="session")
def core_test(build: Path) -> Path:
    """The C++ tests of what knows nothing of Triton."""
    done = subprocess.run(
        ["cmake", "--build", str(build), "--target", "triton_faiss_test", "-j", str(os.cpu_count() or 1)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    if "unknown target" in done.stderr + done.stdout or "No rule to make target" in done.stderr + done.stdout:
        pytest.skip("no header of doctest (Debian: doctest-dev)")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return build / "kernels" / "triton_faiss" / "triton_faiss_test"
