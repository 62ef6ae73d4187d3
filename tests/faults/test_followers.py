"""One writer and its followers in processes of their own, each killed in turn: what was acknowledged holds in all."""

import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attributary.client.admin import Addition, AdminClient
from attributary.errors import DeletedError
from tests.conftest import server_process

TOKEN = "admin-token-of-a-test"
# The promise is two seconds; a test on a loaded machine waits longer and prints what it took.
PATIENCE_S = 30.0


class House:
    """A bundle, the writer that serves it, and followers; `replica` starts one more."""

    def __init__(self, bundle, tokens, stack):
        self.bundle, self._tokens, self._stack = bundle, tokens, stack
        self.slowest = 0.0

    def writer(self):
        return self._stack.enter_context(
            server_process(self.bundle, config={"admin_tokens_file": str(self._tokens)})
        )

    def follower(self, bundle=None):
        return self._stack.enter_context(server_process(bundle or self.bundle))

    def admin(self, writer):
        return AdminClient(writer.address, token=TOKEN)

    def wait(self, server, good):
        """Until what a server says of its bundle is right."""
        started = time.monotonic()
        with server.client() as client:
            while not good(told := client.describe()):
                assert time.monotonic() - started < PATIENCE_S, told
                time.sleep(0.02)
        self.slowest = max(self.slowest, time.monotonic() - started)


@pytest.fixture
def house(tiny_bundle_dir, tmp_path):
    bundle = shutil.copytree(tiny_bundle_dir, tmp_path / "place" / "bundle")
    tokens = tmp_path / "tokens"
    tokens.write_text(f"kim {TOKEN}\n")
    tokens.chmod(0o600)
    with ExitStack() as stack:
        yield House(bundle, tokens, stack)


@contextmanager
def read_only(place, target):
    """The same directory, mounted read-only elsewhere."""
    target.mkdir()
    commands = (
        ["mount", "--bind", str(place), str(target)],
        ["mount", "-o", "remount,ro,bind", str(target)],
    )
    if shutil.which("mount") is None or any(
        subprocess.run(command, capture_output=True, check=False).returncode for command in commands
    ):
        pytest.skip("needs the right to mount")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def health(server, name):
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=name)).status


def metric(server, name):
    page = urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics").read().decode()
    return next(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name + " "))


def gone(server, item_id):
    with server.client() as client, pytest.raises(DeletedError):
        client.get_item(item_id)


def test_writer_and_followers_killed_in_turn(house, picture, capsys):
    writer, followers = house.writer(), [house.follower(), house.follower()]
    deleted, revision = [], 0

    def change(admin):
        nonlocal revision
        number = 1000 + len(deleted)
        result = admin.delete_items(ids=[number], why="opted out")
        deleted.append(number)
        added = Addition(id=1 + len(deleted), picture=picture(7), caption="a red ellipse", creator="Eve")
        (outcome,) = admin.add_items([added], why="more")
        revision = outcome.revision
        assert revision == result.revision + 1

    def all_have_it():
        for server in (writer, *followers):
            house.wait(server, lambda told: told.revision == revision)
            gone(server, deleted[-1])

    with house.admin(writer) as admin:
        change(admin)
    all_have_it()
    for number in range(2):
        followers[number].stop(9)
        with house.admin(writer) as admin:
            change(admin)
        followers[number] = house.follower()
        all_have_it()
    for _ in range(2):
        writer.stop(9)
        for server in followers:
            # Nobody writes: everybody is at what was acknowledged, and says so.
            house.wait(server, lambda told: told.revision == revision)
            assert health(server, "attributary.delta") == health_pb2.HealthCheckResponse.SERVING
        writer = house.writer()
        with house.admin(writer) as admin:
            change(admin)
        all_have_it()
    for number in deleted:
        for server in (writer, *followers):
            gone(server, number)
    with capsys.disabled():
        print(f"\nfollowers: a change was seen after {house.slowest:.2f} s at most")


def test_followers_take_over_what_is_compacted(house, picture, tmp_path, capsys):
    """Also on a read-only mount, without a failed query."""
    with read_only(house.bundle.parent, tmp_path / "mounted") as mounted:
        writer, followers = house.writer(), [house.follower(), house.follower(mounted / "bundle")]
        with house.admin(writer) as admin:
            admin.delete_items(creator="Ann", why="opted out")
            for _ in range(2):
                done = admin.compact(why="monthly")
                assert done.parent
                told = admin.delete_items(ids=[1001 + done.added], why="meanwhile")
                for server in followers:
                    with server.client() as client:
                        while client.describe().bundle_id != done.bundle_id:
                            answer = client.attribute(image=picture(3), top_k=5)
                            assert "Ann" not in {item.creator for item in answer.items}
                            time.sleep(0.05)
                    house.wait(server, lambda described, least=told.revision: described.revision >= least)
                (outcome,) = admin.add_items(
                    [Addition(id=told.revision, picture=picture(30), caption="a red ellipse", creator="Eve")],
                    why="more",
                )
                for server in followers:
                    house.wait(server, lambda described, last=outcome.revision: described.revision == last)
        for server in followers:
            gone(server, 1000)


def test_a_damaged_journal_is_said_in_health_and_metrics(house):
    writer, follower = house.writer(), house.follower()
    with house.admin(writer) as admin:
        admin.delete_items(creator="Ann", why="opted out")
    house.wait(follower, lambda told: told.revision == 1)
    assert metric(follower, "attributary_delta_revision") == 1
    assert metric(follower, "attributary_delta_behind_seconds") == 0
    writer.stop()
    path = next((house.bundle / "delta").glob("*.log"))
    whole = path.read_bytes()
    path.write_bytes(whole + b"no record" * 9)
    states = health_pb2.HealthCheckResponse
    deadline = time.monotonic() + PATIENCE_S
    while health(follower, "attributary.delta") != states.NOT_SERVING:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # Whether to send it no queries is for the operator to say: the probe names the service.
    assert health(follower, "attributary.v1.AttributionService") == states.SERVING
    assert metric(follower, 'attributary_delta_state{state="damaged"}') == 1
    assert metric(follower, "attributary_delta_behind_seconds") > 0
    gone(follower, 1000)
    path.write_bytes(whole)
    while health(follower, "attributary.delta") != states.SERVING:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    _, log = follower.stop()
    told = [json.loads(line) for line in log.splitlines() if "the bundle's changes" in line]
    assert [line["state"] for line in told] == ["damaged", "following"]
