"""`serve --processes 2` is one server to whoever asks: answers, changes, metrics, the end of a process and of all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.client import Client
from attributary.client.admin import Addition, AdminClient
from attributary.errors import DeletedError, NotFoundError, PreconditionError, UnavailableError

TOKEN = "admin-token-of-a-test"
# The promise is two seconds; a test on a loaded machine waits longer.
PATIENCE_S = 60.0


class Running:
    """A server of two processes."""

    def __init__(self, process, told):
        self.process, self.pids = process, told["pids"]
        self.address = f"127.0.0.1:{told['port']}"
        self.page = f"http://127.0.0.1:{told['metrics_port']}/metrics"

    def client(self):
        """On a connection of its own: the kernel picks the process."""
        return Client(self.address, timeout_s=PATIENCE_S)

    def admin(self):
        return AdminClient(self.address, token=TOKEN)

    def metrics(self, name):
        """Values by labels."""
        page = urllib.request.urlopen(self.page, timeout=PATIENCE_S).read().decode()
        lines = (line.rsplit(" ", 1) for line in page.splitlines() if line.startswith(name + "{"))
        return {key.removeprefix(name): float(value) for key, value in lines}

    def by_process(self, method):
        """How many calls of a method each process has answered."""
        found = self.metrics("attributary_requests_total")
        return [
            sum(
                count for key, count in found.items() if f'"{method}"' in key and f'process="{number}"' in key
            )
            for number in range(2)
        ]

    def everywhere(self, method, ask):
        """Ask on new connections until both processes have answered; return what was told."""
        told, before = [], self.by_process(method)
        for _ in range(500):
            told.append(ask())
            if all(now > then for now, then in zip(self.by_process(method), before, strict=True)):
                return told
        raise AssertionError(f"one process never answered: {self.by_process(method)}, before {before}")

    def until(self, good):
        deadline = time.monotonic() + PATIENCE_S
        while not good():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def running(bundle, tokens, *more):
    command = [sys.executable, "-m", "attributary.cli.main", "serve", str(bundle), "--processes", "2"]
    command += ["--port", "0", "--metrics-port", "0", "--admin-tokens-file", str(tokens), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Running(process, json.loads(line))
    finally:
        # Its processes end with it, however it ends.
        process.kill()
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def place(tiny_bundle_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "tokens").write_text(f"kim {TOKEN}\n")
    (folder / "tokens").chmod(0o600)
    return shutil.copytree(tiny_bundle_dir, folder / "bundle")


@pytest.fixture
def another(place, tiny_bundle_dir, tmp_path):
    """A bundle that nobody writes."""
    return shutil.copytree(tiny_bundle_dir, tmp_path / "bundle")


@pytest.fixture(scope="module")
def server(place):
    with running(place, place.parent / "tokens") as started:
        yield started


def test_answers_are_one_process_s(server, tiny_bundle_dir):
    vector = np.random.default_rng(3).standard_normal(209).astype(np.float32)
    wanted = open_engine(tiny_bundle_dir).attribute(Query(embedding=vector), Options(top_k=5))

    def ask():
        with server.client() as client:
            return client.attribute(embedding=vector, top_k=5)

    for answer in server.everywhere("Attribute", ask):
        assert [item.id for item in answer.items] == [item.id for item in wanted.items]
        assert [item.share for item in answer.items] == [item.share for item in wanted.items]
        assert answer.diffuse_share == wanted.diffuse_share


def test_changes_through_any_process_hold_in_all(server, picture):
    numbers = iter(range(1000, 1500))

    def delete():
        with server.admin() as admin:
            return admin.delete_items(ids=[next(numbers)], why="opted out")

    done = server.everywhere("DeleteItems", delete)[-1]

    def ask():
        with server.client() as client:
            told = client.describe()
            with pytest.raises((DeletedError, NotFoundError)):
                client.get_item(1000)
            return told.revision

    server.until(lambda: min(server.metrics("attributary_delta_revision").values()) == done.revision)
    assert set(server.everywhere("DescribeBundle", ask)) == {done.revision}

    # A stream, there and back.
    def add():
        number = next(numbers) + 7_000
        with server.admin() as admin:
            item = Addition(id=number, picture=picture(7), caption="a red ellipse", creator="Eve")
            return next(iter(admin.add_items([item], why="more"))).revision

    revision = server.everywhere("AddItems", add)[-1]
    server.until(lambda: min(server.metrics("attributary_delta_revision").values()) == revision)


def test_errors_of_the_writer_come_through_any_process(server):
    def refused():
        with server.admin() as admin, pytest.raises(PreconditionError) as error:
            admin.unload_bundle("default", why="x")
        return error.value.subject

    assert set(server.everywhere("UnloadBundle", refused)) == {"server"}
    with (
        AdminClient(server.address, token="another") as admin,
        pytest.raises(Exception, match="UNAUTHENTICATED"),
    ):
        admin.delete_items(ids=[1001], why="x")


def test_another_server_finds_the_port_taken(server, place):
    port = server.address.rpartition(":")[2]
    for processes in ("1", "2"):
        command = [sys.executable, "-m", "attributary.cli.main", "serve", str(place), "--no-writer"]
        command += ["--port", port, "--metrics-port", "-1", "--processes", processes]
        failed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert failed.returncode == 2
        assert "attributary: port: cannot listen" in failed.stderr


def test_a_process_that_is_killed_comes_back(place, another):
    with running(another, place.parent / "tokens", "--drain-s", "5") as server:
        number = 1100
        for which in (0, 1):
            pid = server.pids[which]
            os.kill(pid, signal.SIGKILL)
            server.until(
                lambda which=which: not server.metrics("attributary_process_up")[f'{{process="{which}"}}']
            )
            # The other one answers meanwhile.
            with server.client() as client:
                assert client.describe().revision is not None
            server.until(lambda: min(server.metrics("attributary_process_up").values()) == 1)
            number += 1
            with server.admin() as admin:
                revision = admin.delete_items(ids=[number], why="opted out").revision
            server.until(
                lambda revision=revision: (
                    list(server.metrics("attributary_delta_revision").values()) == [revision] * 2
                )
            )
        states = set()
        for _ in range(8):
            with grpc.insecure_channel(server.address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                states.add(stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).status)
        assert states == {health_pb2.HealthCheckResponse.SERVING}
        server.process.send_signal(signal.SIGTERM)
        _, log = server.process.communicate(timeout=PATIENCE_S)
        assert server.process.returncode == 0, log
        assert sum('"event": "ended"' in line for line in log.splitlines()) == 3
        with Client(server.address, retry=False) as client, pytest.raises(UnavailableError):
            client.describe()


def test_processes_end_with_the_one_that_looks_after_them(place, another):
    with running(another, place.parent / "tokens") as server:
        server.process.kill()
        server.until(lambda: not any(map(alive, server.pids)))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_bundle_that_cannot_be_opened_ends_the_server(tmp_path):
    command = [sys.executable, "-m", "attributary.cli.main", "serve", str(tmp_path), "--processes", "2"]
    command += ["--port", "0", "--metrics-port", "-1"]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert failed.returncode == 2
    assert "attributary: bundle file manifest.json: is missing" in failed.stderr
