"""A real server process over a real bundle, asked through the real client."""

import asyncio
import signal
import threading
import time
import urllib.request

import numpy as np
import pytest

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.client import Answer, AsyncClient, Filter, query
from attributary.errors import InvalidArgumentError, OverloadedError, UnavailableError


@pytest.fixture(scope="session")
def indexed(picture):
    """The bytes of item 1003, by Dee under MIT."""
    return picture(3)


def test_an_indexed_picture_is_its_own_first_source(client, indexed):
    answer = client.attribute(indexed, prompt="a orange rectangle", top_k=5, timings=True)
    first = answer.items[0]
    assert (first.id, first.rank, first.creator, first.licence) == (1003, 1, "Dee", "MIT")
    assert first.similarity > 0.999
    assert len(answer.items) == 5
    assert answer.creators[0].creator == "Dee"
    total = sum(creator.share for creator in answer.creators) + answer.diffuse_share
    assert total == pytest.approx(1, abs=1e-3)
    phases = answer.timings.phases()
    assert all(
        phases[name] > 0 for name in ("decode", "preprocess", "tokenize", "encode", "search", "rescore")
    )
    assert sum(phases.values()) <= answer.timings.total * 1.01


def test_the_gateway_answers_what_the_engine_answers(client, indexed, tiny_bundle_dir, tiny_corpus_dir):
    engine = open_engine(tiny_bundle_dir)
    direct = engine.attribute(Query(image=indexed), Options(top_k=7))
    served = client.attribute(tiny_corpus_dir / "pictures" / "3.png", top_k=7)
    assert [item.id for item in served.items] == [item.id for item in direct.items]
    assert [item.share for item in served.items] == pytest.approx([item.share for item in direct.items])
    assert served.diffuse_share == pytest.approx(direct.diffuse_share)
    prepared = engine.prepare(Query(image=indexed), Options(top_k=7))
    for other in (
        client.attribute(prepared.pixels, top_k=7),
        client.attribute(embedding=engine.embed([prepared])[0], top_k=7),
    ):
        assert [item.id for item in other.items] == [item.id for item in direct.items]
        assert other.diffuse_share == pytest.approx(direct.diffuse_share, abs=1e-4)


def test_filters_restrict_the_search(client, indexed):
    answer = client.attribute(indexed, top_k=15, filter=Filter(include_creators=("Ann", "Bo")))
    assert {item.creator for item in answer.items} == {"Ann", "Bo"}
    answer = client.attribute(indexed, filter=Filter(exclude_creators=("Dee",), include_licences=("MIT",)))
    assert {item.creator for item in answer.items} == {"Bo"}


def test_batch_and_stream_agree_with_single_calls(client, tiny_corpus_dir):
    pictures = [(tiny_corpus_dir / "pictures" / f"{number}.png").read_bytes() for number in range(20)]
    queries = [query(data) for data in pictures]
    single = [client.attribute(data).items for data in pictures]
    batch = client.attribute_batch(queries)
    stream = list(client.attribute_stream(queries))
    for wanted, of_batch, of_stream in zip(single, batch, stream, strict=True):
        assert [item.id for item in of_batch.items] == [item.id for item in wanted]
        assert [item.id for item in of_stream.items] == [item.id for item in wanted]


async def test_the_async_client(server, indexed):
    async with AsyncClient(server.address) as client:
        bundle = await client.describe()
        assert bundle.item_count == 300
        assert (await client.get_item(1003)).creator == "Dee"
        answers = await asyncio.gather(*(client.attribute(indexed) for _ in range(20)))
        assert {answer.items[0].id for answer in answers} == {1003}
        assert (await client.attribute_batch([query(indexed)]))[0].items[0].id == 1003
        results = [result async for result in client.attribute_stream([query(indexed)] * 3)]
        assert [result.items[0].id for result in results] == [1003] * 3


def test_leaving_a_stream_early_leaves_the_server_healthy(client, indexed):
    results = client.attribute_stream([query(indexed)] * 100)
    assert isinstance(next(results), Answer)
    results.close()
    assert client.attribute(indexed).items


def test_metrics_follow_the_traffic(start_server, indexed):
    with start_server() as server, server.client() as client:
        client.attribute(indexed)
        client.attribute(embedding=np.ones(client.describe().dim, np.float32))
        with pytest.raises(InvalidArgumentError):
            client.attribute(b"")
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        with urllib.request.urlopen(url) as reply:
            lines = reply.read().decode().splitlines()
    for line in (
        'attributary_requests_total{code="OK",method="Attribute"} 2.0',
        'attributary_requests_total{code="INVALID_ARGUMENT",method="Attribute"} 1.0',
        'attributary_phase_seconds_count{phase="decode"} 1.0',
        'attributary_phase_seconds_count{phase="search"} 2.0',
        'attributary_batch_size_count{lane="encode"} 1.0',
        "attributary_permits_in_use 0.0",
    ):
        assert line in lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_with_a_request_in_flight(start_server, indexed, number):
    with start_server(hold_s=0.7) as server, server.client() as client:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(client.attribute(indexed)))
        asking.start()
        assert server.line() == {"batch": 1}
        status, _ = server.stop(number)
        asking.join()
        assert status == 0
        assert answers[0].items[0].id == 1003
        with pytest.raises(UnavailableError):
            client.attribute(indexed)


def test_a_second_signal_ends_the_grace(start_server, indexed, tmp_path):
    over = tmp_path / "over"
    with (
        start_server(hold_until=str(over), config={"encode_workers": 1, "drain_s": 1000.0}) as server,
        server.client() as client,
    ):
        failures = []

        def ask():
            try:
                client.attribute(indexed)
            except Exception as error:
                failures.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        assert server.line() == {"batch": 1}
        server.process.send_signal(signal.SIGTERM)
        while "draining" not in server.process.stderr.readline():
            pass
        server.process.send_signal(signal.SIGTERM)
        asking.join()  # its call has failed, though its batch is still held
        over.touch()
        status, _ = server.stop()
        assert status == 0
        assert len(failures) == 1


def test_overload_is_refused_while_accepted_queries_finish(start_server, indexed, tmp_path):
    over = tmp_path / "over"
    config = {"permits": 2, "max_encode_batch": 1, "encode_workers": 2}
    with start_server(hold_until=str(over), config=config) as server, server.client(timeout_s=200) as client:
        outcomes = []

        def ask():
            try:
                outcomes.append(client.attribute(indexed))
            except Exception as error:
                outcomes.append(error)

        asking = [threading.Thread(target=ask) for _ in range(6)]
        for thread in asking:
            thread.start()
        while len(outcomes) < 4 and any(thread.is_alive() for thread in asking):
            time.sleep(0.01)
        over.touch()
        for thread in asking:
            thread.join()
        assert sum(isinstance(outcome, Answer) for outcome in outcomes) == 2
        assert sum(isinstance(outcome, OverloadedError) for outcome in outcomes) == 4
        assert client.attribute(indexed).items


def test_retries_bridge_a_server_that_starts_late(start_server, indexed, tiny_bundle_dir):
    with start_server() as first:
        port = int(first.address.rsplit(":", 1)[1])
        client = first.client(retry=True)
        assert client.attribute(indexed).items
        assert first.stop()[0] == 0
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.attribute(indexed, timeout_s=20)))
    with start_server(config={"port": port}):
        asking.start()
        asking.join()
    client.close()
    assert answers[0].items[0].id == 1003


def test_logs_hold_neither_prompts_nor_pictures(start_server, indexed):
    with start_server(config={"log_level": "debug"}) as server, server.client() as client:
        client.attribute(indexed, prompt="zanzibar marmalade")
        with pytest.raises(InvalidArgumentError):
            client.attribute(b"marmalade", prompt="zanzibar")
        _, log = server.stop()
    assert '"method": "Attribute"' in log
    assert '"code": "INVALID_ARGUMENT"' in log
    assert "zanzibar" not in log
    assert "marmalade" not in log


def test_a_wrong_setting_ends_the_start_with_its_name(tiny_bundle_dir, start_server, server):
    port = int(server.address.rsplit(":", 1)[1])
    with pytest.raises(RuntimeError, match="cannot listen"), start_server(config={"port": port}):
        pass
    assert server.process.poll() is None
