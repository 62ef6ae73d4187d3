"""Whichever way a query takes to Triton, it gets the embedded engine's answer."""

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from attributary import kernels
from attributary.attribution.types import Filter, Options, Query
from attributary.client import query

SIMILARITY, SHARE = 1e-3, 1e-3
BATCHES = (1, 2, 5, 8, 16, 31, 32)


def same(answer, wanted, ids=None):
    """An Attribution or a client's Answer equals the embedded engine's."""
    assert [item.id for item in answer.items] == [item.id for item in wanted.items]
    for found, item in zip(answer.items, wanted.items, strict=True):
        assert found.similarity == pytest.approx(item.similarity, abs=SIMILARITY)
        assert found.share == pytest.approx(item.share, abs=SHARE)
        assert (found.caption, found.creator, found.licence, found.uri) == (
            item.caption, item.creator, item.licence, item.uri,
        )  # fmt: skip
    assert [total.creator for total in answer.creators] == [total.creator for total in wanted.creators]
    for found, total in zip(answer.creators, wanted.creators, strict=True):
        assert found.share == pytest.approx(total.share, abs=SHARE)
        assert found.item_count == total.item_count
    assert answer.diffuse_share == pytest.approx(wanted.diffuse_share, abs=SHARE)
    assert answer.withheld_share == pytest.approx(wanted.withheld_share, abs=SHARE)
    assert answer.out_of_distribution == wanted.out_of_distribution


def same_rows(reply, vectors, engine):
    """Triton's own tensors are the embedded engine's candidates and their exact similarities."""
    candidates = engine.snapshot.candidates(vectors)
    rows, similarity = kernels.rank(
        vectors, candidates.rows, engine.bundle.vectors, top_k=engine.snapshot.candidate_count
    )
    assert reply.as_numpy("similarity") == pytest.approx(similarity, abs=SIMILARITY)
    found = reply.as_numpy("row")
    assert found.shape == rows.shape
    # Where similarities tie, rows may change places and the last ones may be others.
    assert np.mean(found == rows) > 0.95
    assert {f"{number:016x}" for number in reply.as_numpy("bundle")[:, 0]} == {
        engine.bundle.manifest.bundle_id
    }


def batches(total):
    """Slices of the sizes in BATCHES, in turn, until all are covered."""
    start = 0
    for size in itertools.cycle(BATCHES):
        if start >= total:
            return
        yield slice(start, min(total, start + size))
        start += size


def test_questions_hold_both_kinds(questions):
    assert 40 < sum(bool(question.prompt) for question in questions) < 160


def test_through_the_gateway(gateway, questions, expected):
    with gateway.client() as client:
        for question, wanted in zip(questions, expected, strict=True):
            same(client.attribute(question.pixels, prompt=question.prompt), wanted)


def test_through_the_gateway_in_batches(gateway, questions, expected):
    with gateway.client() as client:
        for part in batches(len(questions)):
            inputs = [query(question.pixels, prompt=question.prompt) for question in questions[part]]
            for answer, wanted in zip(client.attribute_batch(inputs), expected[part], strict=True):
                same(answer, wanted)


def test_embeddings_through_the_gateway(gateway, engine, questions, expected):
    prepared = [engine.prepare(question) for question in questions]
    vectors = engine.embed(prepared)
    with gateway.client() as client:
        for part in batches(len(questions)):
            inputs = [
                query(embedding=vector, has_prompt=one.has_prompt)
                for vector, one in zip(vectors[part], prepared[part], strict=True)
            ]
            for answer, wanted in zip(client.attribute_batch(inputs), expected[part], strict=True):
                same(answer, wanted)


@pytest.mark.parametrize(
    "restriction",
    [
        Filter(include_creators=("Ann",)),
        Filter(exclude_creators=("Bo", "Cy"), include_licences=("CC0-1.0",)),
        Filter(include_creators=("Dee",), exclude_licences=("MIT",)),
    ],
    ids=["one creator", "most out", "nobody left"],
)
def test_filters_through_the_gateway(gateway, engine, questions, restriction):
    options = Options(filter=restriction, top_k=7, top_creators=2)
    with gateway.client() as client:
        for question in questions[:12]:
            wanted = engine.attribute(question, options)
            answer = client.attribute(
                question.pixels, prompt=question.prompt, filter=restriction, top_k=7, top_creators=2
            )
            same(answer, wanted)


def test_filters_of_one_batch_are_not_mixed_up(gateway, engine, questions):
    filters = [Filter(), Filter(include_creators=("Ann",)), Filter(exclude_creators=("Ann",))]
    vectors = engine.embed([engine.prepare(question) for question in questions[:48]])
    with gateway.client() as client, ThreadPoolExecutor(16) as callers:

        def ask(number):
            return client.attribute(embedding=vectors[number], filter=filters[number % 3])

        answers = list(callers.map(ask, range(len(vectors))))
    for number, answer in enumerate(answers):
        plain = Query(embedding=vectors[number])
        same(answer, engine.attribute(plain, Options(filter=filters[number % 3])))


@pytest.mark.parametrize("module", [tritonclient.grpc, tritonclient.http], ids=["grpc", "http"])
def test_pictures_through_tritonclient(module, indexed, engine, questions, ask, tensors):
    address = indexed.grpc_address if module is tritonclient.grpc else indexed.http_address
    with module.InferenceServerClient(address) as client:
        for part in batches(len(questions)):
            prepared = [engine.prepare(question) for question in questions[part]]
            reply = ask(module, client, "attribution", tensors(prepared, engine.tokenizer))
            vectors = reply.as_numpy("embedding")
            assert vectors == pytest.approx(engine.embed(prepared), abs=1e-5)
            same_rows(reply, vectors, engine)


@pytest.mark.parametrize("module", [tritonclient.grpc, tritonclient.http], ids=["grpc", "http"])
def test_embeddings_through_tritonclient(module, indexed, engine, questions, ask, tensors):
    address = indexed.grpc_address if module is tritonclient.grpc else indexed.http_address
    vectors = engine.embed([engine.prepare(question) for question in questions])
    with module.InferenceServerClient(address) as client:
        for part in batches(len(questions)):
            inputs = tensors(questions[part], engine.tokenizer, embeddings=vectors[part])
            same_rows(ask(module, client, "index", inputs), vectors[part], engine)


def test_a_filter_restricts_the_search(indexed, engine, questions, ask, tensors):
    prepared = [engine.prepare(question) for question in questions[:4]]
    inputs = tensors(prepared, engine.tokenizer, embeddings=engine.embed(prepared))
    allowed = engine.filters.compile(Filter(include_creators=("Cy",)))
    with tritonclient.grpc.InferenceServerClient(indexed.grpc_address) as client:
        free = ask(tritonclient.grpc, client, "index", inputs)
        inputs["filter"] = np.tile(allowed.bitmap, (4, 1))
        reply = ask(tritonclient.grpc, client, "index", inputs)
        inputs["filter"] = np.zeros((4, 0), np.uint8)
        none = ask(tritonclient.grpc, client, "index", inputs)
    rows = reply.as_numpy("row")
    assert (rows >= 0).all()
    assert {engine.bundle.items.creator(row) for row in rows.flat} == {"Cy"}
    assert (none.as_numpy("row") == free.as_numpy("row")).all()


@pytest.mark.parametrize("hidden", [("Ann",), ("Ann", "Bo", "Cy")])
def test_no_share_rises_and_the_sum_stays_one(gateway, engine, questions, hidden):
    vectors = engine.embed([engine.prepare(question) for question in questions[:8]])
    with gateway.client() as client:
        for vector in vectors:
            whole = client.attribute(embedding=vector, top_creators=32, top_k=300)
            part = client.attribute(
                embedding=vector, top_creators=32, top_k=300, filter=Filter(exclude_creators=hidden)
            )
            shares = {item.id: item.share for item in whole.items}
            assert all(item.share <= shares.get(item.id, 0) + 1e-6 for item in part.items)
            assert part.diffuse_share == whole.diffuse_share
            for answer in (whole, part):
                total = sum(one.share for one in answer.creators)
                assert total + answer.diffuse_share + answer.withheld_share == pytest.approx(1, abs=1e-4)


def test_the_call_in_the_docs(triton, engine, questions, tensors):
    text = (Path(__file__).parents[2] / "docs" / "triton.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    given = tensors([engine.prepare(questions[1])], engine.tokenizer)
    names = {}
    exec(example, names)
    rows, _, bundle_id = names["ask"](
        triton.grpc_address, given["pixels"], given["token_ids"], given["token_mask"]
    )
    assert engine.bundle.items.id_of(int(rows[0, 0])) == engine.attribute(questions[1]).items[0].id
    assert bundle_id == engine.bundle.manifest.bundle_id
