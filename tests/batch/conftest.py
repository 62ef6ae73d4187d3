"""Logs as tools leave them, and one call that scores them."""

import socket
from dataclasses import replace

import pytest

from attributary.attribution.open import open_engine
from attributary.batch.job import score
from attributary.batch.plan import make_plan
from attributary.batch.run import shard_tables
from attributary.batch.scoring import EngineScorer
from attributary.batch.settings import Settings

SMALL = Settings(rows_per_shard=4, batch_size=3)


@pytest.fixture
def free_port():
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def tiny_engine(tiny_bundle_dir):
    """An engine on the tiny bundle, in this process."""
    return open_engine(tiny_bundle_dir)


@pytest.fixture(scope="session")
def score_log(tiny_engine):
    """Function: (inputs, out, **settings) -> (rows, summary): scores the inputs, and again from nothing but a shard."""

    def run(inputs, out, **settings):
        settings = replace(SMALL, **settings)
        inputs = inputs if isinstance(inputs, list) else [inputs]
        plan = make_plan(inputs, settings)
        result = score(plan, EngineScorer(tiny_engine, settings), out, workers=2)
        first = {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
        # Law of every law: whatever a shard was read from, it is read again with the same bytes.
        for name in list(first)[1::2]:
            (out / "shards" / name).unlink()
        (out / "summary.json").unlink()
        score(make_plan(inputs, settings), EngineScorer(tiny_engine, settings), out, workers=1)
        assert {path.name: path.read_bytes() for path in (out / "shards").iterdir()} == first
        rows = [row for table in shard_tables(out) for row in table.to_pylist()]
        assert len(rows) == result.summary["rows"]
        return rows, result.summary

    return run
