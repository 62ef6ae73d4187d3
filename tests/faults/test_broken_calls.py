"""What strangers send leaves no traceback in the log, and does not fill it."""

import contextlib

import grpc
import pytest

from attributary.client import Client
from attributary.errors import InvalidArgumentError

SERVICE = "/attributary.v1.AttributionService/"
STREAM = SERVICE + "AttributeStream"
HEALTH = "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
NOISE = b"\xff\x01\x02garbage"


def clean(log):
    for word in ("Traceback", "never retrieved", "ExecuteBatchError", "Unexpected"):
        assert word not in log


@pytest.mark.parametrize(
    "method", [HEALTH + "Check", HEALTH + "Watch", REFLECTION, STREAM, SERVICE + "GetItem"]
)
def test_messages_that_cannot_be_read_are_invalid_everywhere(server, method):
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(method)(iter([NOISE])))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_broken_calls_leave_no_traceback(start_server, rude, picture):
    methods = [
        HEALTH + "Check",
        HEALTH + "Watch",
        REFLECTION,
        STREAM,
        SERVICE + "Attribute",
        SERVICE + "None",
    ]
    with start_server() as server:
        with grpc.insecure_channel(server.address) as channel:
            for method in methods:
                for messages in ([NOISE], [], [b"", NOISE]):
                    with contextlib.suppress(grpc.RpcError):
                        list(channel.stream_stream(method)(iter(messages), timeout=2))
        for round_ in range(8):
            peer = rude.Rude(server.address)
            for number, method in enumerate(methods):
                stream = 2 * number + 1
                peer.begin(stream, method)
                peer.send(stream, rude.message(b"x" * 100, 5_000))
                if round_ % 2:
                    peer.frame(rude.RST_STREAM, 0, stream, b"\0\0\0\x08")
            peer.close()
        with server.client() as client:
            assert client.attribute(picture(3)).items[0].id == 1003
        status, log = server.stop()
    assert status == 0
    clean(log)


def test_bad_messages_are_logged_at_a_rate(start_server):
    with start_server() as server:
        with Client(server.address, retry=False) as client:
            for _ in range(500):
                with pytest.raises(InvalidArgumentError):
                    client.attribute(b"no picture")
        _, log = server.stop()
    lines = [line for line in log.splitlines() if '"refused"' in line]
    assert 20 <= len(lines) <= 200
    clean(log)
