"""The load client in Go (`load/main.go`), built and called: so that a Python client is not what is measured.

Go and its gRPC come from the distribution: `apt-get install golang-go golang-google-grpc-dev`.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent / "load"
PACKAGES = Path("/usr/share/gocode")  # where Debian puts them
ATTRIBUTE = "/attributary.v1.AttributionService/Attribute"


class LoadClient:
    """Sends prepared requests to one server. Files lie in `folder`."""

    def __init__(self, binary: Path, folder: Path, address: str, requests: Sequence[bytes]) -> None:
        self._binary, self._address = binary, address
        self._replies = folder / "replies"
        self._requests = folder / f"requests-{len(list(folder.iterdir()))}"
        self._requests.write_bytes(b"".join(struct.pack("<I", len(data)) + data for data in requests))

    def run(self, **flags: float) -> dict[str, Any]:
        """Return what the client told (seconds): latencies, elapsed, cpu; and `replies`, (latency, bytes) of some.

        Flags are those of `load/main.go`. Ends the program where a call failed: its figures would mean nothing.
        """
        given = [f"-{name}={value}" for name, value in flags.items()]
        files = [f"-requests={self._requests}", f"-replies={self._replies}"]
        command = [str(self._binary), f"-address={self._address}", f"-method={ATTRIBUTE}", *files, *given]
        told: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        if told["failures"]:
            raise SystemExit(f"calls failed: {told['failures']}")
        return {**told, "replies": list(_read(self._replies.read_bytes()))}


def build(folder: Path) -> Path | None:
    """Compile the client into `folder`; None where Go or its gRPC is missing."""
    go = shutil.which("go")
    if go is None or not (PACKAGES / "src/google.golang.org/grpc").is_dir():
        return None
    target = Path(tempfile.mkdtemp(dir=folder)) / "load"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(PACKAGES)}
    subprocess.run([go, "build", "-o", str(target), "."], cwd=SOURCE, env=environment, check=True)
    return target


def _read(data: bytes) -> Iterator[tuple[float, bytes]]:
    at = 0
    while at < len(data):
        seconds, size = struct.unpack_from("<dI", data, at)
        at += 12 + size
        yield seconds, data[at - size : at]
