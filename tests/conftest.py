"""What several kinds of tests share: a tiny real bundle, and a server process around it."""

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from attributary.building import build_bundle
from attributary.client import Client

SUPPORT = Path(__file__).parent / "support"


@pytest.fixture(scope="session")
def tiny():
    """The module tests/support/tiny.py."""
    return _support("tiny")


@pytest.fixture(scope="session")
def students():
    """The module tests/support/students.py."""
    return _support("students")


@pytest.fixture(scope="session")
def certificates():
    """The module tests/support/certificates.py."""
    return _support("certificates")


@pytest.fixture(scope="session")
def rude():
    """The module tests/support/rude.py."""
    return _support("rude")


def _support(name):
    spec = importlib.util.spec_from_file_location(name, SUPPORT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_encoder_dir(tiny, tmp_path_factory) -> Path:
    """encoder.onnx and tokenizer.json of a few kilobytes."""
    return tiny.write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def tiny_corpus_dir(tiny, tmp_path_factory) -> Path:
    """300 drawn pictures by 4 creators under 2 licences; ids from 1000."""
    return tiny.draw_corpus(tmp_path_factory.mktemp("corpus") / "tiny", 300)


@pytest.fixture(scope="session")
def tiny_bundle_dir(tiny_corpus_dir, tiny_encoder_dir, tmp_path_factory) -> Path:
    """A bundle of the tiny corpus; never changed in place."""
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    build_bundle(tiny_corpus_dir, tiny_encoder_dir, out, probes=100, workers=2)
    return out


@pytest.fixture(scope="session")
def picture(tiny_corpus_dir):
    """Function: number -> the encoded PNG of item 1000 + number."""
    return lambda number: (tiny_corpus_dir / "pictures" / f"{number}.png").read_bytes()


@dataclass
class ServerProcess:
    """A running server."""

    process: subprocess.Popen
    address: str
    metrics_port: int

    def client(self, **settings):
        """A client of it; the caller closes it."""
        return Client(self.address, **{"retry": False, "timeout_s": 20, **settings})

    def line(self):
        """The next line that the server prints, as JSON."""
        return json.loads(self.process.stdout.readline())

    def stop(self, number=signal.SIGTERM):
        """Send a signal, wait, and return (exit status, what was logged)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, log = self.process.communicate(timeout=120)
        return self.process.returncode, log


@contextlib.contextmanager
def server_process(bundle, **asked):
    """Start a server process, wait until it is ready, and end it afterwards."""
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "serve_bundle.py"), json.dumps({"bundle": str(bundle), **asked})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: {process.communicate()[1]}")
        ready = json.loads(line)
        assert ready["ready"] is True
        yield ServerProcess(process, f"127.0.0.1:{ready['port']}", ready["metrics_port"])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def start_server(tiny_bundle_dir):
    """`with start_server(config={...}, limits={...}, hold_s=...) as server`."""
    return lambda bundle=tiny_bundle_dir, **asked: server_process(bundle, **asked)


@pytest.fixture(scope="session")
def server(start_server):
    """One server for every test that leaves it healthy."""
    with start_server() as running:
        yield running


@pytest.fixture
def client(server):
    """A client of the shared server."""
    with server.client() as connected:
        yield connected
