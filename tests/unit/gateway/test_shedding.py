"""Whom to refuse while calls wait too long: nobody at once, those first who send most, and nobody once it is over."""

import grpc
import pytest

from attributary.errors import OverloadedError
from attributary.gateway import admission
from attributary.gateway.admission import PROBE, Shedder


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(admission, "monotonic", lambda: now[0])
    return now


def refused(shedder, name, number=200):
    count = 0
    for _ in range(number):
        try:
            shedder.admit(name)
        except OverloadedError as error:
            assert error.retry_after_s == 1.0
            count += 1
    return count


def test_a_stumble_refuses_nobody(clock):
    shedder = Shedder(0.5)
    for _ in range(8):
        clock[0] += 0.05
        shedder.note(3.0)
    assert shedder.refused_part == 0
    assert refused(shedder, "a") == 0


def test_a_standing_queue_refuses_more_and_more_and_then_nobody(clock):
    shedder = Shedder(0.5)
    for _ in range(60):
        clock[0] += 0.05
        shedder.note(3.0)
    assert shedder.refused_part == 1
    # So few calls are no queue; beyond them everybody is refused.
    assert refused(shedder, "a") == 200 - 63
    for _ in range(21):
        clock[0] += 0.05
        shedder.note(0.01)
    assert shedder.refused_part == 0
    assert refused(shedder, "a") == 0


def test_those_who_send_most_are_refused_first(clock, monkeypatch):
    monkeypatch.setattr(admission.random, "random", lambda: 0.2)
    shedder = Shedder(0.5)
    refused(shedder, "loud", 980)
    refused(shedder, "quiet", 20)
    shedder.refused_part = 0.5
    assert refused(shedder, "loud", 10) == 10
    assert refused(shedder, "quiet", 10) == 0


async def test_the_servers_own_probe_is_no_method_to_others(serve, engine):
    """Without a token, and uncounted, it would be."""
    gateway, _ = await serve(engine)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(PROBE)(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
