"""NVIDIA's perf_analyzer, fetched into the cache folder and run on machines whose libc is older than its own.

    from perf_analyzer import find, measure, without_network

`find` gives the command to run; it unpacks the wheel and, where the system's libc is too old, Debian trixie's next to
it. Nothing of the system is changed. `without_network` runs Triton inside the tool, through its C API: what is left of
a request without gRPC. All raise `CannotRunError` with the reason.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from tritonserver.install import cache_folder

WHEEL = "perf-analyzer==2.60.0"
_PLATFORM = "manylinux_2_38_x86_64"
_LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1", "libssl3t64", "zlib1g", "libzstd1")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_TIMEOUT_S = 300


class CannotRunError(Exception):
    """perf_analyzer cannot be had or does not run here; the text says why."""


def find() -> list[str]:
    """Return the command that runs perf_analyzer, fetched if need be."""
    folder = cache_folder().parent / "perf_analyzer-2.60.0"
    program = folder / "wheel" / "perf_analyzer" / "bin" / "perf_analyzer"
    if not program.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            target = ["--platform", _PLATFORM, "--only-binary", ":all:", "-d", scratch]
            _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", *target, WHEEL])
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as archive:
                archive.extractall(folder / "wheel")
        program.chmod(0o755)
    for command in ([str(program)], _aside(folder, program)):
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0:
            return command
    raise CannotRunError("perf_analyzer does not start, not even on libraries of its own")


def measure(
    command: Sequence[str],
    address: str,
    model: str,
    tensors: Mapping[str, Any],
    *,
    concurrency: int = 1,
    batch: int = 1,
    seconds: float = 1.5,
) -> dict[str, float]:
    """Ask `model` over gRPC for the queries in `tensors` ([Q, ...] each); return rate and latencies in ms.

    The columns are perf_analyzer's own: queue and compute come from Triton's statistics.
    """
    count = len(next(iter(tensors.values())))
    data = [
        {
            name: {"content": array[row].ravel().tolist(), "shape": list(array[row].shape)}
            for name, array in tensors.items()
        }
        for row in range(count)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch) / "inputs.json"
        inputs.write_text(json.dumps({"data": data}))
        where = ["-u", address, "-i", "grpc"]
        return report_of(
            [*command, *where], model, inputs, concurrency=concurrency, batch=batch, seconds=seconds
        )


def without_network(command: Sequence[str], repository: Path, backends: Path, scratch: Path) -> list[str]:
    """Return the command that runs Triton in the tool's own process, with all models of `repository`.

    `backends` holds folders of backends in C++: one in Python has a process that is waited for, and hangs here.
    Raises `CannotRunError` where the server's library is not the wheel's.
    """
    from tritonserver.install import find as find_server

    libraries = next(iter(find_server().binary.parents[3].glob("nvidia_pytriton.libs")), None)
    library = next(iter(libraries.glob("libtritonserver-*.so")), None) if libraries else None
    if library is None or libraries is None or "--library-path" not in command:
        raise CannotRunError("Triton's library is used in process only where it is the wheel's")
    (scratch / "lib").mkdir(parents=True, exist_ok=True)
    (scratch / "lib" / "libtritonserver.so").symlink_to(library)
    (scratch / "backends").symlink_to(backends.resolve())
    at = command.index("--library-path") + 1
    paths = f"{command[at]}:{libraries}:/usr/lib/x86_64-linux-gnu"
    # Preloaded, since backends look for the server's functions among the global ones.
    return [
        *command[:at], paths, "--preload", str(library), *command[at + 1 :], "--service-kind", "triton_c_api",
        "--triton-server-directory", str(scratch), "--model-repository", str(repository),
    ]  # fmt: skip


def report_of(
    command: Sequence[str],
    model: str,
    inputs: Path,
    *,
    concurrency: int = 1,
    batch: int = 1,
    seconds: float = 1.5,
) -> dict[str, float]:
    """Run the tool on an input file of its own format; return what `measure` does."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.csv"
        _run(
            [
                *command, "-m", model, "--input-data", str(inputs), "-f", str(report),
                "--concurrency-range", str(concurrency), "-b", str(batch),
                # A shared machine never holds still: three windows in which there were answers, whatever they are
                # like. A count of requests would end sooner, but its rate is rounded to whole seconds.
                "--measurement-interval", str(round(seconds * 1e3)), "--stability-percentage", "999", "-r", "10",
            ]
        )  # fmt: skip
        row = next(csv.DictReader(report.open()))
    return {
        "queries_per_s": float(row["Inferences/Second"]),
        "p50_ms": float(row["p50 latency"]) / 1e3,
        "p99_ms": float(row["p99 latency"]) / 1e3,
        "queue_ms": float(row["Server Queue"]) / 1e3,
        "compute_ms": float(row["Server Compute Infer"]) / 1e3,
    }


def _aside(folder: Path, program: Path) -> list[str]:
    """Unpack Debian trixie's libraries beside the program; return the command that uses them."""
    root = folder / "root"
    libraries = root / "usr" / "lib" / "x86_64-linux-gnu"
    if not (libraries / "ld-linux-x86-64.so.2").exists():
        if shutil.which("apt-get") is None or not Path(_KEYRING).is_file():
            raise CannotRunError("perf_analyzer needs a newer libc, and this is no Debian to fetch one with")
        with tempfile.TemporaryDirectory() as scratch:
            apt = Path(scratch)
            for name in ("lists/partial", "cache/archives/partial", "debs"):
                (apt / name).mkdir(parents=True)
            (apt / "status").touch()
            (apt / "sources.list").write_text(
                f"deb [signed-by={_KEYRING}] http://deb.debian.org/debian trixie main\n"
            )
            settings = {
                "Dir::Etc::SourceList": apt / "sources.list",
                "Dir::Etc::SourceParts": "/dev/null",
                "Dir::Etc::Preferences": "/dev/null",
                "Dir::State": apt,
                "Dir::State::Lists": apt / "lists",
                "Dir::State::status": apt / "status",
                "Dir::Cache": apt / "cache",
                "APT::Sandbox::User": "root",
                "Acquire::Languages": "none",
            }
            options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
            _run(["apt-get", *options, "-q", "update"])
            _run(["apt-get", *options, "-q", "download", *_LIBRARIES], cwd=apt / "debs")
            for package in (apt / "debs").glob("*.deb"):
                _run(["dpkg", "-x", str(package), str(root)])
    loader = libraries / "ld-linux-x86-64.so.2"
    return [str(loader), "--library-path", str(libraries), str(program)]


def _run(command: Sequence[str], cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRunError(f"{Path(command[0]).name}: {error}") from None
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-3:]
        raise CannotRunError(f"{Path(command[0]).name} failed: {' / '.join(last)}")
