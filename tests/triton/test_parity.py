"""Whichever way a query takes to Triton, it gets the embedded engine's answer."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

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
    assert answer.out_of_distribution == wanted.out_of_distribution


def same_rows(reply, wanted, engine):
    """Triton's own tensors equal the embedded engine's answers."""
    items, names = engine.bundle.items, engine.bundle.items.creator_names
    for row, answer in enumerate(wanted):
        rows = reply.as_numpy("row")[row]
        assert [items.id_of(place) for place in rows if place >= 0] == [item.id for item in answer.items]
        kept = len(answer.items)
        similarity, share = reply.as_numpy("similarity")[row], reply.as_numpy("share")[row]
        assert similarity[:kept] == pytest.approx([item.similarity for item in answer.items], abs=SIMILARITY)
        assert share[:kept] == pytest.approx([item.share for item in answer.items], abs=SHARE)
        creators = reply.as_numpy("creator")[row]
        assert [names[code] for code in creators if code >= 0] == [total.creator for total in answer.creators]
        totals = reply.as_numpy("creator_share")[row][: len(answer.creators)]
        assert totals == pytest.approx([total.share for total in answer.creators], abs=SHARE)
        assert reply.as_numpy("diffuse")[row, 0] == pytest.approx(answer.diffuse_share, abs=SHARE)
        assert f"{reply.as_numpy('bundle')[row, 0]:016x}" == engine.bundle.manifest.bundle_id


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
            asked = [query(question.pixels, prompt=question.prompt) for question in questions[part]]
            for answer, wanted in zip(client.attribute_batch(asked), expected[part], strict=True):
                same(answer, wanted)


def test_embeddings_through_the_gateway(gateway, engine, questions, expected):
    prepared = [engine.prepare(question) for question in questions]
    vectors = engine.embed(prepared)
    with gateway.client() as client:
        for part in batches(len(questions)):
            asked = [
                query(embedding=vector, has_prompt=one.has_prompt)
                for vector, one in zip(vectors[part], prepared[part], strict=True)
            ]
            for answer, wanted in zip(client.attribute_batch(asked), expected[part], strict=True):
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
def test_pictures_through_tritonclient(module, indexed, engine, questions, expected, ask, tensors):
    address = indexed.grpc_address if module is tritonclient.grpc else indexed.http_address
    with module.InferenceServerClient(address) as client:
        for part in batches(len(questions)):
            prepared = [engine.prepare(question) for question in questions[part]]
            reply = ask(module, client, "attribution", tensors(prepared, engine.tokenizer))
            same_rows(reply, expected[part], engine)


@pytest.mark.parametrize("module", [tritonclient.grpc, tritonclient.http], ids=["grpc", "http"])
def test_embeddings_through_tritonclient(module, indexed, engine, questions, expected, ask, tensors):
    address = indexed.grpc_address if module is tritonclient.grpc else indexed.http_address
    prepared = [engine.prepare(question) for question in questions]
    vectors = engine.embed(prepared)
    with module.InferenceServerClient(address) as client:
        for part in batches(len(questions)):
            asked = tensors(prepared[part], engine.tokenizer, embeddings=vectors[part])
            same_rows(ask(module, client, "index", asked), expected[part], engine)


def test_every_query_of_a_request_has_its_own_counts(indexed, engine, questions, ask, tensors):
    prepared = [engine.prepare(question) for question in questions[:3]]
    asked = tensors(prepared, engine.tokenizer, embeddings=engine.embed(prepared))
    asked["top_k"] = np.array([[2], [5], [1]], np.int32)
    asked["top_creators"] = np.array([[0], [3], [1]], np.int32)
    with tritonclient.grpc.InferenceServerClient(indexed.grpc_address) as client:
        reply = ask(tritonclient.grpc, client, "index", asked)
    assert reply.as_numpy("row").shape == (3, 5)
    assert (reply.as_numpy("row") >= 0).sum(axis=1).tolist() == [2, 5, 1]
    assert (reply.as_numpy("share")[0, 2:] == 0).all()
    assert reply.as_numpy("creator").shape == (3, 3)
    for row, (top_k, creators) in enumerate([(2, 0), (5, 3), (1, 1)]):
        wanted = engine.attribute(questions[row], Options(top_k=top_k, top_creators=creators))
        rows = [place for place in reply.as_numpy("row")[row] if place >= 0]
        assert [engine.bundle.items.id_of(place) for place in rows] == [item.id for item in wanted.items]
        codes = [code for code in reply.as_numpy("creator")[row] if code >= 0]
        assert len(codes) == len(wanted.creators)


def test_a_filter_restricts_the_search_and_leaves_the_peak(indexed, engine, questions, ask, tensors):
    prepared = [engine.prepare(question) for question in questions[:4]]
    asked = tensors(prepared, engine.tokenizer, embeddings=engine.embed(prepared), top_k=20)
    allowed = engine.filters.compile(Filter(include_creators=("Cy",)))
    with tritonclient.grpc.InferenceServerClient(indexed.grpc_address) as client:
        free = ask(tritonclient.grpc, client, "index", asked)
        asked["filter"] = np.tile(allowed.bitmap, (4, 1))
        reply = ask(tritonclient.grpc, client, "index", asked)
        asked["filter"] = np.zeros((4, 0), np.uint8)
        none = ask(tritonclient.grpc, client, "index", asked)
    rows = reply.as_numpy("row")
    assert (rows >= 0).all()
    assert {engine.bundle.items.creator(row) for row in rows.flat} == {"Cy"}
    assert reply.as_numpy("peak") == pytest.approx(free.as_numpy("similarity")[:, :1], abs=1e-6)
    assert (none.as_numpy("row") == free.as_numpy("row")).all()
