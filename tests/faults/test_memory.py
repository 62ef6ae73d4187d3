"""Memory: nothing of a message is received before its caller is let in, and what is received is bounded."""

import gzip
import threading
import time
import urllib.request

import grpc
import psutil
import pytest

from attributary.client import Client
from attributary.errors import InvalidArgumentError
from attributary.v1 import attribution_pb2 as pb

BATCH = "/attributary.v1.AttributionService/AttributeBatch"
MIB = 1 << 20


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text("sesame\nother\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def guarded(start_server, tokens):
    """A server that receives four messages of 1 MiB at once."""
    config = {
        "tokens_file": str(tokens),
        "max_message_bytes": MIB,
        "max_inflight_bytes": 4 * MIB,
        "receive_s": 5.0,
    }
    with start_server(config=config) as server:
        yield server


def resident(server):
    return psutil.Process(server.process.pid).memory_info().rss


def gauge(server, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
    raise AssertionError(f"no {name}")


def test_without_a_token_the_answer_comes_before_the_message(guarded, rude):
    peer = rude.Rude(guarded.address)
    for stream, token in ((1, None), (3, "wrong")):
        peer.begin(stream, token=token)
        assert peer.wait_ended(stream)
    peer.close()


def test_without_a_token_a_flood_of_large_messages_costs_no_memory(guarded, rude):
    before = resident(guarded)
    body = rude.message(bytes(MIB - 1), MIB)
    peers = [rude.Rude(guarded.address) for _ in range(10)]
    for peer in peers:
        for stream in range(1, 21, 2):
            peer.begin(stream)
            peer.send(stream, body)
            assert peer.wait_ended(stream)
    assert resident(guarded) - before < 50 * MIB
    for peer in peers:
        peer.close()


def test_unfinished_messages_are_bounded_and_others_are_answered(guarded, rude, picture):
    body = rude.message(bytes(MIB - 1), MIB)
    peers = [rude.Rude(guarded.address) for _ in range(12)]

    def hold(peer):
        for stream in (1, 3, 5):
            peer.begin(stream, token="sesame")
            peer.send(stream, body)

    holding = [threading.Thread(target=hold, args=(peer,)) for peer in peers]
    for thread in holding:
        thread.start()
    with guarded.client(token="other") as client:
        for _ in range(5):
            assert client.attribute(picture(3)).items[0].id == 1003
            assert gauge(guarded, "attributary_unfinished_messages") <= 4
    for thread in holding:
        thread.join()
    # Each is ended in time, though its caller never says a word more.
    for peer in peers:
        for stream in (1, 3, 5):
            assert peer.wait_ended(stream, 60)
        peer.close()
    assert guarded.process.poll() is None


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_bomb_is_refused_and_a_compressed_request_is_answered(guarded, picture, algorithm):
    own = (("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0))
    before = resident(guarded)
    with grpc.insecure_channel(guarded.address, options=own, compression=algorithm) as channel:
        ask = channel.unary_unary("/attributary.v1.AttributionService/Attribute")
        metadata = (("authorization", "Bearer sesame"),)
        good = pb.AttributeRequest(query=pb.Query(image=picture(3), prompt="x" * 5_000)).SerializeToString()
        answer = pb.AttributeResponse.FromString(ask(good, metadata=metadata))
        assert answer.attribution.items[0].id == 1003
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                ask(bytes(50 * MIB), metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "larger than max when inflated" in caught.value.details()
    assert resident(guarded) - before < 30 * MIB


def test_a_batch_of_very_many_queries_is_refused_before_it_is_parsed(guarded):
    with grpc.insecure_channel(guarded.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(BATCH)(b"\x0a\x00" * 500_000, metadata=(("authorization", "Bearer sesame"),))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "got more than" in caught.value.details()


def test_the_default_message_is_what_a_picture_needs(start_server):
    with start_server() as server, server.client() as client:
        with pytest.raises(InvalidArgumentError, match="larger than max"):
            client.attribute(bytes(22 * MIB))
        assert client.describe().item_count == 300


def test_headers_connections_and_streams_have_limits(start_server, rude):
    config = {"max_connection_calls": 7, "max_connections": 3, "max_connection_idle_s": 1.0}
    with start_server(config=config) as server:
        peer = rude.Rude(server.address)
        peer.begin(1, token="x" * 70_000)
        assert peer.wait_ended(1)
        # Without a call a connection ends, whether it says anything or not.
        assert peer.wait_closed(30)
        with server.client() as client:
            assert client.describe().item_count == 300


@pytest.mark.slow
def test_a_connection_that_says_nothing_is_hung_up_on(server, rude):
    silent, half = rude.Rude(server.address, preface=b""), rude.Rude(server.address, preface=rude.PREFACE[:9])
    started = time.monotonic()
    assert silent.wait_closed(60)
    assert half.wait_closed(60)
    print(f"hung up after {time.monotonic() - started:.1f} s")


@pytest.mark.slow
def test_a_server_of_default_limits_stays_below_4_gib(start_server, tokens, rude, picture):
    """96 unfinished messages of 20 MiB by one token, bombs without one, and another caller meanwhile."""
    with start_server(config={"tokens_file": str(tokens), "log_level": "error"}) as server:
        body = rude.message(bytes((20 << 20) - 1), 20 << 20)
        peers = [rude.Rude(server.address) for _ in range(12)]
        bomb = gzip.compress(bytes(250 << 20), 1)

        def hold(peer):
            for stream in range(1, 17, 2):
                peer.begin(stream, token="sesame")
                peer.send(stream, body, timeout=3)

        def bombs(peer):
            for stream in range(101, 111, 2):
                peer.begin(stream, grpc_encoding="gzip")
                peer.send(stream, rude.message(bomb, compressed=True), timeout=3)

        threads = [threading.Thread(target=work, args=(peer,)) for peer in peers for work in (hold, bombs)]
        most, answered = 0, 0
        for thread in threads:
            thread.start()
        with Client(server.address, token="other", timeout_s=60) as client:
            while any(thread.is_alive() for thread in threads):
                assert client.attribute(picture(3)).items[0].id == 1003
                answered += 1
                most = max(most, resident(server))
        for peer in peers:
            peer.close()
        print(f"resident at most {most / MIB:.0f} MiB, {answered} answers to another caller meanwhile")
        assert most < 4 << 30
        assert server.process.poll() is None
