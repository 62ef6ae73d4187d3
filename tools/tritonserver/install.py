"""Where a tritonserver comes from: one that is installed, or the one inside the nvidia-pytriton wheel."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attributary.errors import UnavailableError

WHEEL: Final = "nvidia-pytriton==0.7.0"
WHEEL_SHA256: Final = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
SERVER_VERSION: Final = "2.51.0"
# The Python backend of that server sends NumPy 2's arrays as zero bytes, so its environment is kept apart from ours.
STUB_PACKAGES: Final = ("numpy==1.26.4", "onnxruntime==1.31.1", "faiss-cpu==1.15.1", "pillow==13.0.0")

BINARY_VARIABLE: Final = "ATTRIBUTARY_TRITONSERVER"
CACHE_VARIABLE: Final = "ATTRIBUTARY_CACHE"
_PIP_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Installation:
    """A tritonserver and what it needs around it."""

    binary: Path
    backends: Path | None  # None: the server's own default
    caches: Path | None
    environment: dict[str, str]  # to be laid over the caller's; PATH and LD_LIBRARY_PATH are put in front


def find(fetch: bool = True) -> Installation:
    """Return the tritonserver to run: ATTRIBUTARY_TRITONSERVER, else PATH, else the wheel's in the cache folder.

    The wheel is fetched with pip if it is not in the cache yet and `fetch` is set. Raises UnavailableError that
    says what was tried.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise UnavailableError(f"{BINARY_VARIABLE} is {named}, which is no program that can be run")
        return Installation(Path(named), None, None, {})
    on_path = shutil.which("tritonserver")
    if on_path:
        return Installation(Path(on_path), None, None, {})
    return _from_wheel(fetch)


def cache_folder() -> Path:
    """Folder for what is fetched: ATTRIBUTARY_CACHE, else the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    base = (
        Path(named)
        if named
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attributary"
    )
    return base / f"tritonserver-{SERVER_VERSION}-py{sys.version_info.major}{sys.version_info.minor}"


def _from_wheel(fetch: bool) -> Installation:
    folder = cache_folder()
    if not (folder / "complete").is_file():
        if not fetch:
            raise UnavailableError(
                f"no tritonserver in PATH or {BINARY_VARIABLE}, and none fetched in {folder}"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if not (folder / "complete").is_file():
                _fetch(folder)
    root = folder / "wheel" / "pytriton" / "tritonserver"
    environment = {"PATH": str(folder / "python" / "bin")}
    libraries = sysconfig.get_config_var("LIBDIR")
    if libraries:
        environment["LD_LIBRARY_PATH"] = libraries
    return Installation(root / "bin" / "tritonserver", root / "backends", root / "caches", environment)


def _fetch(folder: Path) -> None:
    """Make the cache folder: the wheel unpacked, the stub of this Python in place, its environment beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        requirement = Path(scratch) / "requirements.txt"
        requirement.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        _pip(
            sys.executable, "download", "--no-deps", "--require-hashes", "-r", str(requirement), "-d", scratch
        )
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "wheel")
    root = folder / "wheel" / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise UnavailableError(f"the {WHEEL} wheel has no Python backend for Python {version}")
    placed = root / "backends" / "python" / stub.name
    shutil.copyfile(stub, placed)
    for program in (placed, root / "bin" / "tritonserver"):
        program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    environment = folder / "python"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    _pip(str(environment / "bin" / "python"), "install", *STUB_PACKAGES)
    (folder / "complete").write_text(f"{WHEEL}\n")


def _pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"pip {arguments[0]} took more than {_PIP_TIMEOUT_S} s") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise UnavailableError(f"pip {arguments[0]} failed: {last[-1] if last else done.returncode}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
