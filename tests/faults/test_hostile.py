"""Hostile pictures of one caller: each is answered or refused, another caller is answered, memory is bounded."""

import asyncio
import collections
import importlib.util
import itertools
from pathlib import Path

import pytest

from attributary.client import AsyncClient
from attributary.errors import AttributaryError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUMBER, AT_ONCE = 2_000, 256
# Of a caller who sends what is wrong, or too much of what is slow, or on a machine without a minute for a decoder.
REFUSALS = {"InvalidArgumentError", "OverloadedError", "UnavailableError"}


def benchmark(name):
    """What benchmarks/hostile_pictures.py is made of."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


resident = benchmark("resident").resident


@pytest.fixture(scope="module")
def kinds():
    """The pictures that it sends."""
    return benchmark("hostile_kinds").hostile()


@pytest.mark.slow
@pytest.mark.timeout(1_800)
async def test_hostile_pictures_take_from_who_sends_them(start_server, tmp_path, kinds, picture, tally):
    tokens = tmp_path / "tokens"
    tokens.write_text("hostile\nother\n")
    tokens.chmod(0o600)
    config = {"tokens_file": str(tokens), "log_level": "error", "call_s": 1_000.0}
    codes, most, answered = collections.Counter(), 0, 0
    with start_server(config=config) as server:
        free = asyncio.Semaphore(AT_ONCE)

        async def send(client, data):
            async with free:
                try:
                    await client.attribute(data)
                    codes["OK"] += 1
                except AttributaryError as error:
                    codes[type(error).__name__] += 1

        async with (
            AsyncClient(server.address, token="hostile", retry=False, timeout_s=1_000) as hostile,
            AsyncClient(server.address, token="other", retry=False, timeout_s=60) as other,
        ):
            turns = itertools.islice(itertools.cycle(kinds.values()), NUMBER)
            sent = asyncio.gather(*(send(hostile, data) for data in turns))
            while not sent.done():
                assert (await other.attribute(picture(3))).items[0].id == 1003
                answered += 1
                most = max(most, await asyncio.to_thread(resident, server.process.pid))
            await sent
        assert server.process.poll() is None
    print(f"{dict(codes)}, {answered} answers to another caller meanwhile, at most {most >> 20} MiB")
    refused = sum(codes[name] for name in REFUSALS)
    tally("hostile pictures", sent=NUMBER, admitted=NUMBER - refused, refused=refused,
          failed=NUMBER - refused - codes["OK"])  # fmt: skip
    assert sum(codes.values()) == NUMBER
    assert set(codes) <= REFUSALS | {"OK"}
    assert answered > 0
    assert most < 4 << 30
