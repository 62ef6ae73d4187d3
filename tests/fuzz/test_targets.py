"""Every fuzz target for a moment, without a fuzzer: seeds, cut, flipped and joined at random."""

import importlib.util
import random
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("fuzz_parsers", Path(__file__).parent / "parsers.py")
parsers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parsers)


@pytest.mark.parametrize("name", parsers.TARGETS)
def test_a_parser_says_what_it_should_or_a_typed_error(name):
    if name == "signed":
        pytest.importorskip("jwt")
    rng = random.Random(name)
    target, seeds = parsers.TARGETS[name], parsers.SEEDS[name]
    target(b"")
    for number in range(30 if name == "looks" else 300):
        data = bytearray(rng.choice(seeds) if number % 3 else rng.choice(seeds) + rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        target(bytes(data[: rng.randrange(len(data) + 1)] if number % 5 == 0 else data))
