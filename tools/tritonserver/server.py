"""One tritonserver process: started with a repository, waited for, stopped, and cleaned up after."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import attributary
from attributary.errors import InvalidArgumentError, UnavailableError

from .container import Container
from .install import Installation, find

BACKEND_LIBRARY: Final = "libtriton_faiss.so"
_SHM = Path("/dev/shm")
_POLL_S = 0.05
# The folder that holds `attributary`, for the Python models.
_PACKAGE: Final = Path(attributary.__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the server listens; 0 picks a free port."""

    host: str = "127.0.0.1"
    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002


class TritonServer:
    """A tritonserver of our own. Ready when entered, stopped and cleaned up when left.

    `faiss_backend` is a libtriton_faiss.so, for repositories whose index was materialised for it. Models are under
    explicit control: all of the repository are loaded at start, later ones by `control.load`. Configs are strict: the
    server completes nothing. With a `container` it runs there, and no installation is looked for. Raises
    UnavailableError with the server's own first error if it ends before it is ready, or is not ready in time.
    """

    def __init__(
        self,
        repository: Path,
        *,
        ports: Ports | None = None,
        faiss_backend: Path | None = None,
        installation: Installation | None = None,
        container: Container | None = None,
        ready_s: float = 120.0,
        exit_s: float = 10.0,
        log: Path | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        if not (repository / "attribution" / "config.pbtxt").is_file():
            raise InvalidArgumentError(
                "repository", f"{repository} holds no models; run `attributary triton materialize`"
            )
        if faiss_backend is not None and not faiss_backend.is_file():
            raise InvalidArgumentError("faiss_backend", f"{faiss_backend} is not a file")
        self._container = container
        self._installation = None if container else installation or find()
        self._repository = repository.resolve()
        given = ports or Ports()
        self.ports = Ports(given.host, *_free(given.host, (given.grpc, given.http, given.metrics)))
        self._faiss_backend = faiss_backend
        self._ready_s, self._exit_s, self._extra = ready_s, exit_s, tuple(extra)
        self._log_path = log
        self._log: IO[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # Regions of a server that was killed stay behind; the prefix tells which were this one's.
        self._prefix = f"attributary_{os.getpid()}_{secrets.token_hex(4)}_"

    @property
    def grpc_address(self) -> str:
        """host:port of the gRPC service."""
        return f"{self.ports.host}:{self.ports.grpc}"

    @property
    def http_address(self) -> str:
        """host:port of the HTTP service."""
        return f"{self.ports.host}:{self.ports.http}"

    @property
    def pid(self) -> int:
        """Process id of tritonserver."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="attributary-triton-")
        path = self._log_path or Path(self._scratch.name) / "log"
        self._log = path.open("ab")
        self._process = subprocess.Popen(
            self._command(Path(self._scratch.name)),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # A group of its own: signals come from us only, and its stubs can be ended with it.
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        """Return when every model is loaded."""
        assert self._process is not None
        until = time.monotonic() + self._ready_s
        while time.monotonic() < until:
            status = self._process.poll()
            if status is not None:
                raise UnavailableError(f"tritonserver ended with status {status}: {self.last_words()}")
            if _answers(f"http://{self.http_address}/v2/health/ready"):
                return
            time.sleep(_POLL_S)
        raise UnavailableError(
            f"tritonserver was not ready within {self._ready_s:.0f} s: {self.last_words()}"
        )

    def wait(self) -> int:
        """Return the exit status when the process has ended."""
        assert self._process is not None
        return self._process.wait()

    def send(self, number: int) -> None:
        """Forward a signal to the server."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """End the server and whatever it left: SIGTERM, then SIGKILL; stubs; shared memory; scratch files."""
        process = self._process
        if process is not None:
            self.send(signal.SIGTERM)
            try:
                process.wait(self._exit_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.clean_up()
        if self._log is not None:
            self._log.close()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def clean_up(self) -> None:
        """After the process has ended: end its stubs or its container, and remove its shared memory."""
        assert self._process is not None
        if self._container is not None:
            self._container.remove(self._prefix.rstrip("_"))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for region in _SHM.glob(self._prefix + "*") if _SHM.is_dir() else ():
            # A container may have made them as another user.
            with contextlib.suppress(OSError):
                region.unlink()

    def log(self) -> str:
        """What the server has written so far."""
        assert self._log is not None
        return Path(str(self._log.name)).read_text(errors="replace")

    def _command(self, scratch: Path) -> list[str]:
        found, container, ports = self._installation, self._container, self.ports
        command = [f"--model-repository={self._repository}"]
        if found is not None:
            backends = self._backends(found, scratch)
            if backends is not None:
                command.append(f"--backend-directory={backends}")
            if found.caches is not None:
                command.append(f"--cache-directory={found.caches}")
        for service in ("http", "grpc", "metrics"):
            command += [f"--{service}-address={ports.host}", f"--{service}-port={getattr(ports, service)}"]
        command += [
            "--model-control-mode=explicit",
            "--load-model=*",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={max(1, int(self._exit_s) - 1)}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            # A picture of 224 px is 150 kB; regions grow by themselves.
            "--backend-config=python,shm-default-byte-size=8388608",
        ]
        command += self._extra
        if found is not None:
            return [str(found.binary), *command]
        assert container is not None
        return container.command(
            self._prefix.rstrip("_"),
            self._repository,
            command,
            environment=_settings({}),
            faiss_backend=self._faiss_backend,
            package=_PACKAGE,
        )

    def _backends(self, found: Installation, scratch: Path) -> Path | None:
        """Return a folder of backends that holds ours too, None where the server's default does."""
        base = found.backends
        if self._faiss_backend is None:
            return base
        folder = scratch / "backends"
        folder.mkdir(exist_ok=True)
        base = base or found.binary.resolve().parents[1] / "backends"
        for backend in base.iterdir():
            _link(folder / backend.name, backend)
        (folder / "faiss").mkdir(exist_ok=True)
        _link(folder / "faiss" / BACKEND_LIBRARY, self._faiss_backend.resolve())
        return folder

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        if self._installation is None:
            return environment
        for name, value in self._installation.environment.items():
            before = environment.get(name)
            environment[name] = f"{value}{os.pathsep}{before}" if before else value
        return _settings(environment)

    def last_words(self) -> str:
        """The line of the log that explains best why the server ended or is not ready."""
        lines = self.log().splitlines()
        errors = [
            line for line in lines if "failed to load" in line or "Error:" in line or "bundle file" in line
        ]
        return (errors[:1] or lines[-1:] or ["it wrote nothing"])[0][-500:]


def _settings(environment: dict[str, str]) -> dict[str, str]:
    """Lay what every tritonserver of ours runs with under a caller's environment."""
    return {
        # Threads that spin for work would take the core of the next request.
        "OMP_WAIT_POLICY": "passive",
        # A picture is larger than what malloc maps and unmaps anew each time: every page of every copy would fault.
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
        **environment,
        "ATTRIBUTARY_PACKAGE_PATH": str(_PACKAGE),
    }


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(target)


def _free(host: str, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Return the ports, free ones for every 0; all are held until all are chosen, so they differ."""
    with contextlib.ExitStack() as held:
        ports = []
        for port in wanted:
            if port == 0:
                holder = held.enter_context(socket.socket())
                holder.bind((host, 0))
                port = holder.getsockname()[1]
            ports.append(port)
    return tuple(ports)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
