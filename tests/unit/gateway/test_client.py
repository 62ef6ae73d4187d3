import asyncio
import inspect
import socket
import subprocess
import sys

import numpy as np
import pytest

from attributary.client import AsyncClient, Client, Filter, Query, Tls, admin, calls, messages, query
from attributary.client.admin import AdminClient, AsyncAdminClient
from attributary.client.errors import unreachable
from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.v1 import attribution_pb2 as pb


def test_a_query_from_bytes_a_path_pixels_or_an_embedding(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"abc")
    assert query(b"abc").image == query(path).image == query(str(path)).image == b"abc"
    assert query(np.zeros((2, 3, 3), np.uint8), prompt="x").pixels.shape == (2, 3, 3)
    assert query(embedding=[1, 2], has_prompt=True).embedding.dtype == np.float32


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "query"),
        ({"image": b"a", "embedding": [1.0]}, "query"),
        ({"image": "/none/such"}, "query.image"),
        ({"image": np.zeros((2, 3), np.uint8)}, "query.pixels"),
        ({"image": np.zeros((2, 3, 3), np.float32)}, "query.pixels"),
        ({"embedding": [[1.0]]}, "query.embedding"),
    ],
)
def test_what_cannot_be_a_query_is_refused_before_it_is_sent(given, field):
    with pytest.raises(InvalidArgumentError) as caught:
        query(**given)
    assert caught.value.field == field


def test_the_message_of_a_query_holds_all_of_it():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::2]
    message = messages.to_query(query(pixels, prompt="x"))
    assert (message.pixels.height, message.pixels.width, message.prompt) == (2, 2, "x")
    assert message.pixels.data == pixels.tobytes()
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    message = messages.to_query(query(embedding=values, has_prompt=True)).embedding
    assert list(message.values) == values.tolist()
    assert message.has_prompt
    assert messages.to_query(Query()).WhichOneof("input") is None
    empty = messages.to_query(Query(embedding=np.zeros(0, np.float32)))
    assert empty.WhichOneof("input") == "embedding"


def test_what_is_asked_beside_a_query():
    asked = {"top_k": 0, "filter": Filter(("a",), (), (), ("b",)), "timings": True, "bundle_id": "x"}
    message = messages.attribute_request(query(b"a"), asked)
    assert message.options.HasField("top_k")
    assert not message.options.HasField("top_creators")
    assert message.options.filter == pb.Filter(include_creators=["a"], exclude_licences=["b"])
    assert (message.options.timings, message.bundle_id) == (True, "x")


def test_a_server_that_is_not_there_is_unavailable():
    with Client("127.0.0.1:1", retry=False, timeout_s=10) as client, pytest.raises(UnavailableError):
        client.describe()


def test_certificate_without_key_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"tls\.cert"):
        Tls(cert=tmp_path / "a").credentials()


def test_the_client_needs_no_part_of_the_server():
    heavy = ("faiss", "onnxruntime", "pyarrow", "PIL", "prometheus_client", "attributary.gateway")
    code = f"import sys, attributary.client; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def nobody():
    """A port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_without_a_server_every_client_says_so_and_how_to_start_one(tmp_path):
    address = nobody()
    said = rf"^no server is running at {address}; start one with `attributary serve BUNDLE`$"
    with Client(address, retry=False, timeout_s=5) as client, pytest.raises(UnavailableError, match=said):
        client.describe()
    with AdminClient(address, token="x") as admin, pytest.raises(UnavailableError, match=said):
        admin.delete_items(ids=[1], why="x")

    async def ask():
        async with AsyncClient(address, retry=False, timeout_s=5) as client:
            await client.describe()

    with pytest.raises(UnavailableError, match=said):
        asyncio.run(ask())


def test_a_name_that_no_host_has_and_an_answer_that_is_none_are_told_apart():
    assert "no host is known" in unreachable("DNS resolution failed for nowhere:1: ...", "nowhere:1")
    told = unreachable("failed to connect to all addresses; last error: UNKNOWN: Ssl handshake failed", "a:1")
    assert told == "no server answers at a:1: UNKNOWN: Ssl handshake failed"
    assert unreachable("the server is draining", "a:1") == ""


def test_both_clients_have_the_same_calls():
    def calls(kind):
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert calls(Client) == calls(AsyncClient)
    assert calls(AdminClient) == calls(AsyncAdminClient)
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["AttributionService"].methods}
    asked = {
        name: "".join(part.title() for part in name.split("_")) for name in calls(Client) if name != "close"
    }
    assert set(asked.values()) - {"Describe"} | {"DescribeBundle"} == methods


PICTURE = b"\x89PNG"


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: calls.attribute(PICTURE, prompt=5), "query.prompt"),
        (lambda: calls.attribute(PICTURE, topk=3), "options.topk"),
        (lambda: calls.attribute(PICTURE, exclude_creators=["Ada"]), "options.exclude_creators"),
        (lambda: calls.attribute(PICTURE, top_k="5"), "options.top_k"),
        (lambda: calls.attribute(PICTURE, top_k=5.5), "options.top_k"),
        (lambda: calls.attribute(PICTURE, top_creators=-1), "options.top_creators"),
        (lambda: calls.attribute(PICTURE, timings="yes"), "options.timings"),
        (lambda: calls.attribute(PICTURE, filter={"exclude_creators": ["Ada"]}), "options.filter"),
        (lambda: calls.attribute(PICTURE, filter=Filter(exclude_creators="Ada")), "options.filter.exclude_creators"),
        (lambda: calls.attribute(PICTURE, filter=Filter(include_licences=(5,))), "options.filter.include_licences"),
        (lambda: calls.attribute(PICTURE, filter=Filter(("\udc80",))), "options.filter.include_creators"),
        (lambda: calls.attribute(PICTURE, bundle_id=5), "bundle_id"),
        (lambda: calls.attribute(embedding=["a", "b"]), "query.embedding"),
        (lambda: calls.attribute(embedding=[[1.0], [2.0, 3.0]]), "query.embedding"),
        (lambda: calls.attribute(embedding=[None, 1.0]), "query.embedding"),
        (lambda: calls.attribute(embedding=np.ones(4, complex)), "query.embedding"),
        (lambda: calls.attribute_batch([PICTURE]), "query"),
        (lambda: calls.attribute_batch([query(PICTURE)], topk=3), "options.topk"),
        (lambda: calls.get_item("a"), "id"),
        (lambda: calls.get_item(2**63), "id"),
        (lambda: calls.list_items(search=3), "search"),
        (lambda: calls.list_items(page_size=1.5), "page_size"),
        (lambda: admin.add_item("a", why="x"), "item"),
        (lambda: admin.add_item(admin.Addition(1, "text", "a", "b"), why="x"), "item.image"),
        (lambda: admin.add_item(admin.Addition(1, PICTURE, "a", "b"), why=None, bundle=1), "bundle"),
        (lambda: admin.delete_items(ids="12", why="x"), "selection.ids"),
        (lambda: admin.delete_items(creator=5, why="x"), "selection.creator"),
        (lambda: admin.load_bundle("a", why="x", pinned_s="1"), "pinned_s"),
        (lambda: Client("http://127.0.0.1:1"), "address"),
        (lambda: Client(""), "address"),
        (lambda: Client(5), "address"),
        (lambda: Client("127.0.0.1:1", timeout_s=float("nan")), "timeout_s"),
        (lambda: Client("127.0.0.1:1", timeout_s=float("inf")), "timeout_s"),
        (lambda: Client("127.0.0.1:1").describe(timeout_s=1e10), "timeout_s"),
        (lambda: Client("127.0.0.1:1").describe(timeout_s="1"), "timeout_s"),
        (lambda: Client("127.0.0.1:1").describe(timeout_s=-1), "timeout_s"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_by_name(call, field):
    with pytest.raises(InvalidArgumentError) as caught:
        call()
    assert caught.value.field == field


def test_no_prompt_may_be_said_as_none():
    assert messages.to_query(query(PICTURE, prompt=None)).prompt == ""


def test_a_filter_is_never_read_as_letters():
    with pytest.raises(InvalidArgumentError, match="must be texts"):
        Filter(exclude_licences="MIT")
