"""What is refused, how, and what happens at the end: nobody is cancelled by the server, and every call is counted."""

import asyncio
import collections
import signal
import urllib.request

import grpc
import pytest

from attributary.errors import OverloadedError
from attributary.v1 import attribution_pb2 as pb

ATTRIBUTE = "/attributary.v1.AttributionService/Attribute"


def channels(address, count):
    own = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    return [grpc.aio.insecure_channel(address, options=own) for _ in range(count)]


async def outcomes(calls):
    """Count how calls ended, by code; check that an overload says when to come back."""
    codes = collections.Counter()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, grpc.RpcError):
            codes[outcome.code().name] += 1
            if outcome.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                assert "grpc-status-details-bin" in dict(outcome.trailing_metadata())
        else:
            assert isinstance(outcome, bytes)
            codes["OK"] += 1
    return codes


def counted(server):
    """How many calls of Attribute the metrics know, by code."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    found = collections.Counter()
    for line in lines:
        if line.startswith("attributary_requests_total") and 'method="Attribute"' in line:
            found[line.split('code="')[1].split('"')[0]] += int(float(line.rsplit(" ", 1)[1]))
    return found


def count(tally, promise, codes):
    """Count calls by how they ended: whatever is neither answered nor refused has failed."""
    refused = codes["RESOURCE_EXHAUSTED"] + codes["UNAVAILABLE"]
    sent = sum(codes.values())
    tally(promise, sent=sent, admitted=sent - refused, refused=refused, failed=sent - refused - codes["OK"])


async def flood(server, body, number, connections):
    opened = channels(server.address, connections)
    methods = [channel.unary_unary(ATTRIBUTE) for channel in opened]
    codes = await outcomes([methods[index % connections](body, timeout=100) for index in range(number)])
    for channel in opened:
        await channel.close()
    return codes


@pytest.fixture
def embedding(tiny):
    vector = pb.Embedding(values=[1.0] * tiny.DIM)
    return pb.AttributeRequest(query=pb.Query(embedding=vector)).SerializeToString()


async def test_of_a_flood_every_call_is_answered_or_refused_and_counted(start_server, embedding, tally):
    with start_server(config={"permits": 16}) as server:
        codes = await flood(server, embedding, 3_000, 24)
        count(tally, "overload", codes)
        assert sum(codes.values()) == 3_000
        assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}
        assert codes["OK"] >= 16
        assert counted(server) == codes
        # Whoever comes back when it was told to is answered.
        with server.client() as client:
            while True:
                try:
                    assert client.describe().item_count == 300
                    break
                except OverloadedError as error:
                    await asyncio.sleep(error.retry_after_s)


async def in_flight_at_sigterm(server, body, number, connections):
    opened = channels(server.address, connections)
    methods = [channel.unary_unary(ATTRIBUTE) for channel in opened]
    calls = [
        asyncio.ensure_future(_bytes(methods[index % connections](body, timeout=60)))
        for index in range(number)
    ]
    await asyncio.to_thread(server.line)  # a batch has begun
    server.process.send_signal(signal.SIGTERM)
    codes = await outcomes(calls)
    for channel in opened:
        await channel.close()
    return codes


async def _bytes(call):
    return await call


async def test_what_is_in_flight_at_sigterm_is_answered_or_unavailable(start_server, picture, tally):
    body = pb.AttributeRequest(query=pb.Query(image=picture(3))).SerializeToString()
    with start_server(hold_s=0.3, config={"log_level": "error"}) as server:
        codes = await in_flight_at_sigterm(server, body, 600, 8)
        status, _ = await asyncio.to_thread(server.stop)
    count(tally, "SIGTERM", codes)
    assert status == 0
    assert sum(codes.values()) == 600
    assert set(codes) <= {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}
    assert codes["OK"] > 0


async def test_what_outlasts_the_grace_is_unavailable(start_server, picture, tmp_path):
    body = pb.AttributeRequest(query=pb.Query(image=picture(3))).SerializeToString()
    over, config = tmp_path / "over", {"log_level": "error", "drain_s": 0.1}
    with start_server(hold_until=str(over), config=config) as server:
        codes = await in_flight_at_sigterm(server, body, 40, 4)
        over.touch()
        await asyncio.to_thread(server.stop)
    assert set(codes) == {"UNAVAILABLE"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("factor", [3])
async def test_minutes_of_overload(start_server, embedding, tally, factor):
    """Waves of three times what the permits hold, for 100,000 calls."""
    total = collections.Counter()
    with start_server(config={"permits": 64, "log_level": "error"}) as server:
        while sum(total.values()) < 100_000:
            total += await flood(server, embedding, 64 * factor * 10, 16)
        assert counted(server) == total
        await asyncio.to_thread(server.stop)
    count(tally, "overload", total)
    print(f"sent {sum(total.values())}, {dict(total)}")
    assert set(total) <= {"OK", "RESOURCE_EXHAUSTED"}
