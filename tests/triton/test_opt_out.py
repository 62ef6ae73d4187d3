"""Deletions and additions beside Triton: its models know the bundle as it was built, the gateway knows the rest."""

import asyncio

import numpy as np
import pytest

from attributary.attribution.engine import Engine
from attributary.attribution.types import Filter, Options, Query
from attributary.bundle.items import ItemRecord
from attributary.delta.journal.records import Added, Changes, Deleted
from attributary.triton.engine import TritonLink

from .test_parity import same


@pytest.fixture
def changed(engine):
    """Function: a snapshot -> the snapshot after an opt-out and an addition."""
    items, dim = engine.bundle.items, engine.spec.dim
    gone = np.flatnonzero(items.creator_of_row == items.creator_codes["Bo"])
    vector = engine.bundle.vectors[7:8]

    def change(snapshot):
        changes = Changes(snapshot.revision, dim)
        ids = tuple(items.id_of(int(row)) for row in gone)
        changes.take(Deleted("2026-01-01", "Ada", "opted out", "creator=Bo", ids))
        record = ItemRecord(99_999, "a new one", "Zoe", "", "MIT", "file:new.png", 99_999)
        changes.take(Added("2026-01-02", "Ada", "delivery", (record,), vector))
        return snapshot.apply(changes)

    return change


@pytest.mark.parametrize(
    "filter_", [Filter(), Filter(exclude_creators=("Ann",)), Filter(include_creators=("Zoe", "Cy"))]
)
def test_triton_answers_as_the_embedded_engine_does(
    indexed, tiny_bundle_dir, engine, questions, changed, filter_
):
    prepared = [engine.prepare(question) for question in questions[:12]]
    vectors = [*engine.embed(prepared), engine.bundle.vectors[7].astype(np.float32)]
    options = Options(top_k=20, top_creators=32, filter=filter_)
    embedded = Engine(engine.bundle, engine.encoder, engine.index)
    embedded.snapshot = changed(embedded.snapshot)
    wanted = [embedded.attribute(Query(embedding=vector), options) for vector in vectors]

    async def ask():
        link = TritonLink(indexed.grpc_address)
        try:
            remote = link.open(tiny_bundle_dir)
            remote.snapshot = changed(remote.snapshot)
            await remote.verify()
            batch = [remote.prepare(Query(embedding=vector), options) for vector in vectors]
            return await remote.infer(batch, 30.0)
        finally:
            await link.close()

    answers = asyncio.run(ask())
    for answer, expected in zip(answers, wanted, strict=True):
        same(answer, expected)
        assert answer.revision == expected.revision == 2
        assert "Bo" not in {item.creator for item in answer.items}
        total = sum(one.share for one in answer.creators)
        assert total + answer.diffuse_share + answer.withheld_share == pytest.approx(1, abs=1e-4)
    assert answers[-1].items[0].share > 0
    if filter_ != Filter(exclude_creators=("Ann",)):
        assert "Zoe" in {item.creator for item in answers[-1].items[:2]}
