"""Scoring at a gateway: the same answers as in this process, and what happens when the server does not answer."""

import asyncio
import contextlib
import threading
from dataclasses import replace

import pytest

from attributary.attribution.open import open_engine
from attributary.attribution.types import Filter, Limits
from attributary.batch.engines import GatewayScorer, ScorerSource, _outcome, patiently
from attributary.batch.job import score
from attributary.batch.plan import make_plan
from attributary.batch.rows import Problem
from attributary.batch.run import shard_tables
from attributary.batch.scoring import EngineScorer
from attributary.batch.settings import Settings
from attributary.bundle.bundle import Bundle
from attributary.client.errors import ServerError
from attributary.errors import (
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    RunError,
    UnavailableError,
)
from attributary.gateway.config import GatewayConfig
from attributary.gateway.server import Gateway

SETTINGS = Settings(rows_per_shard=8, batch_size=3, engine="gateway")


def rows_of(directory):
    return [row for table in shard_tables(directory) for row in table.to_pylist()]


def through(address, log, out, settings=SETTINGS, **given):
    plan = make_plan([log], settings)
    scorer = GatewayScorer(address, settings, patience_s=given.pop("patience_s", 20))
    try:
        return score(plan, scorer, out, workers=3, **given)
    finally:
        scorer.close()


def test_a_gateway_answers_like_the_engine(log, tmp_path, run_score, server, contents):
    import pyarrow.parquet as pq

    table = pq.read_table(log / "b.parquet")
    images = table["image"].to_pylist()
    images[2], images[4] = b"junk", None
    place = table.schema.get_field_index("image")
    pq.write_table(table.set_column(place, "image", [images]), log / "b.parquet")
    through(server.address, log, tmp_path / "far")
    run_score(log, tmp_path / "near")
    for far, near in zip(rows_of(tmp_path / "far"), rows_of(tmp_path / "near"), strict=True):
        assert [item["id"] for item in far.pop("items") or []] == [
            item["id"] for item in near.pop("items") or []
        ]
        mine = {total["creator"]: total["share"] for total in far.pop("creators") or []}
        theirs = {total["creator"]: total["share"] for total in near.pop("creators") or []}
        assert mine == pytest.approx(theirs, abs=1e-5)
        assert far.pop("diffuse_share") == pytest.approx(near.pop("diffuse_share"), abs=1e-5)
        # Errors, too, are told in the same words.
        assert far == near


def test_a_prompt_of_a_name_alone_is_none_in_every_run(log, tmp_path, run_score, server, tiny_engine):
    """The engine says whether the encoder was given a prompt: a gateway's callers cannot know."""
    import pyarrow.parquet as pq

    table = pq.read_table(log / "b.parquet")
    name = tiny_engine.bundle.items.creator_names[0]
    said = [f"art by {name}", "  ", *["a square"] * (len(table) - 2)]
    place = table.schema.get_field_index("prompt")
    pq.write_table(table.set_column(place, "prompt", [said]), log / "b.parquet")
    through(server.address, log / "b.parquet", tmp_path / "far")
    run_score(log / "b.parquet", tmp_path / "near")
    for run in ("far", "near"):
        assert [row["has_prompt"] for row in rows_of(tmp_path / run)][:3] == [False, False, True]


@pytest.mark.parametrize("engine", ["gateway", "embedded"])
def test_a_run_counts_every_creator_whatever_the_limit_on_items(log, tmp_path, tiny_bundle_dir, engine):
    """The server lets a caller have one item; creators' totals are whole all the same."""
    settings = replace(SETTINGS, engine=engine, top_k=1)
    if engine == "gateway":
        with serving(tiny_bundle_dir, limits=Limits(max_top_k=1)) as address:
            result = through(address, log, tmp_path / "run", settings)
    else:
        opened = open_engine(tiny_bundle_dir, limits=Limits(max_top_k=1))
        result = score(make_plan([log], settings), EngineScorer(opened, settings), tmp_path / "run")
    summary = result.summary
    assert summary["answered"] > 0
    told = summary["diffuse_share"] + summary["withheld_share"] + summary["attributed_share"]
    assert told == pytest.approx(summary["answered"], abs=1e-4)
    assert {len(row["items"]) for row in rows_of(tmp_path / "run") if row["items"] is not None} == {1}


def test_a_run_asks_the_bundle_of_an_alias_and_keeps_to_it(tiny_bundle_dir):
    """The alias is asked once, when the run begins: the run is about a bundle and not about a name."""
    with serving(tiny_bundle_dir, limits=Limits(), alias="painted") as address:
        with contextlib.closing(ScorerSource(SETTINGS, address=address, served="painted").open()) as scorer:
            served = scorer.bundle().id
        assert served == Bundle.open(tiny_bundle_dir, verify=False).manifest.bundle_id
        with pytest.raises(NotFoundError, match="no such bundle: drawn"):
            ScorerSource(SETTINGS, address=address, served="drawn").open()


@contextlib.contextmanager
def serving(directory, limits, **given):
    """A gateway on a thread of this process; yields its address."""
    ready, box = threading.Event(), {}

    async def serve():
        gateway = Gateway(
            open_engine(directory, limits=limits), GatewayConfig(port=0, metrics_port=-1), **given
        )
        await gateway.start()
        box.update(address=f"127.0.0.1:{gateway.port}", stop=asyncio.Event(), loop=asyncio.get_running_loop())
        ready.set()
        await box["stop"].wait()
        await gateway.drain(1)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    try:
        yield box["address"]
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join()


def test_a_run_at_a_gateway_cannot_be_finished_in_process(log, tmp_path, run_score, server):
    through(server.address, log, tmp_path / "run")
    with pytest.raises(RunError, match=r"settings.engine: the run has 'gateway'"):
        run_score(log, tmp_path / "run")


def test_a_wrong_filter_is_no_rows_fault(log, tmp_path, server):
    settings = replace(SETTINGS, filter=Filter(include_creators=("Nobody",)))
    with pytest.raises(InvalidArgumentError, match="Nobody"):
        through(server.address, log, tmp_path / "run", settings)
    assert not list((tmp_path / "run").glob("shards/shard-*"))


def test_batches_must_fit_the_gateway(log, tmp_path, server):
    with pytest.raises(InvalidArgumentError, match="batch_size: must be at most the gateway's 64"):
        through(server.address, log, tmp_path / "run", replace(SETTINGS, batch_size=65))


def test_a_defect_of_the_gateway_is_an_error_row_and_the_same_in_every_run():
    rows = [
        _outcome(ServerError("INTERNAL", f"internal error; the server's log has it as {reference}"))
        for reference in ("c0ffee", "decade")
    ]
    assert (
        rows[0]
        == rows[1]
        == Problem("INTERNAL", "", "the engine failed on this row; the gateway's log says why")
    )
    with pytest.raises(ServerError):
        _outcome(ServerError("UNAUTHENTICATED", "who are you?"))


def test_a_server_that_leaves_stops_the_run_and_another_finishes_it(
    log, tmp_path, start_server, run_score, contents
):
    with start_server() as first:

        def leave(counts):
            if counts.rows >= 16:
                first.stop()

        with pytest.raises(UnavailableError, match=r"no answer for 0\.5 s"):
            through(first.address, log, tmp_path / "run", progress=leave, patience_s=0.5)
    there = {name for name in contents(tmp_path / "run") if name.startswith("shards")}
    assert 2 <= len(there) < 7
    with start_server() as second:
        assert through(second.address, log, tmp_path / "run").summary["answered"] == 47
        through(second.address, log, tmp_path / "whole")
    assert [row["generation_id"] for row in rows_of(tmp_path / "run")] == [
        row["generation_id"] for row in rows_of(tmp_path / "whole")
    ]


def test_nobody_there_is_told_before_anything_is_written(log, tmp_path):
    with pytest.raises(UnavailableError):
        through("127.0.0.1:1", log, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Clock:
    def __init__(self):
        self.now, self.pauses = 0.0, []

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


def asker(*outcomes):
    left = list(outcomes)

    def ask():
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return ask


def test_patience():
    clock = Clock()
    ask = asker(UnavailableError("a"), OverloadedError("b", retry_after_s=3.0), DeadlineError("c"), "answer")
    assert patiently(ask, 60, clock=lambda: clock.now, pause=clock.pause) == "answer"
    assert clock.pauses == [0.1, 3.0, 0.4]


def test_patience_ends():
    clock = Clock()
    ask = asker(*[UnavailableError("gone")] * 100)
    with pytest.raises(UnavailableError, match="no answer for 10 s: gone"):
        patiently(ask, 10, clock=lambda: clock.now, pause=clock.pause)
    assert 5 < clock.now <= 10


def test_other_errors_are_not_asked_again():
    with pytest.raises(InvalidArgumentError):
        patiently(asker(InvalidArgumentError("x", "y")), 10, pause=lambda seconds: None)
