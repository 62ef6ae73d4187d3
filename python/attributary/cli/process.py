"""A gateway in a process of its own, for the demo and for benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Self

from attributary.errors import UnavailableError

_STOP_S = 20.0


class ServerProcess:
    """`attributary serve` on free ports; ready when entered, stopped by SIGTERM when left."""

    def __init__(self, bundle: Path, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "attributary.cli.main", "serve", str(bundle)]
        self._command += ["--port", "0", "--metrics-port", "0", *arguments]
        self._process: subprocess.Popen[str] | None = None
        self.address = ""
        self.metrics_port = 0

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise UnavailableError(f"the server ended with status {status} before it was ready")
        ready = json.loads(line)
        self.address = f"127.0.0.1:{ready['port']}"
        self.metrics_port = ready["metrics_port"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
