"""HTTP beside gRPC: the same answers, limits, tokens and errors; callers who mean no good get no further."""

import base64
import importlib.util
import io
import json
import socket
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_reflection.v1alpha import reflection_pb2

from attributary.errors import InvalidArgumentError, OverloadedError
from attributary.gateway.config import GatewayConfig
from attributary.gateway.errors import to_status
from attributary.gateway.http import OPENAPI
from attributary.gateway.http.replies import ARROW, PARQUET
from attributary.v1 import attribution_pb2 as pb
from tests.support.http_calls import ASK, JSON, form, violated

ROOT = Path(__file__).parents[3]


async def test_an_answer_is_the_one_that_grpc_gives(site, vector):
    _, client, ask = await site()
    status, _, body = await ask("POST", "/v1/attribute", {**ASK, "options": {"top_k": 3}})
    assert status == 200
    answer = json.loads(body)["attribution"]
    told = await client.attribute(embedding=vector(0.5), top_k=3)
    assert answer["items"][0]["id"] == str(told.items[0].id)
    assert answer["items"][0]["similarity"] == told.items[0].similarity
    assert (answer["diffuse_share"], answer["withheld_share"]) == (told.diffuse_share, told.withheld_share)
    assert answer["bundle_id"] == told.bundle_id


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/items/7", lambda told: told["item"]["creator"] == "Ann"),
        ("/v1/bundle", lambda told: told["dim"] == 4 and told["limits"]["max_top_k"] > 0),
        ("/healthz", lambda told: told == {"status": "SERVING"}),
        ("/openapi.json", lambda told: "/v1/attribute" in told["paths"]),
    ],
)
async def test_what_is_read(site, path, found):
    _, _, ask = await site()
    status, headers, body = await ask("GET", path)
    assert status == 200 and headers["content-type"] == "application/json"
    assert found(json.loads(body))


WRONG = [
    ("POST", "/v1/attribute", {"query": {"embedding": {"values": [1]}}}, 400, "query.embedding"),
    ("POST", "/v1/attribute", {**ASK, "options": {"top_k": "a"}}, 400, "options.top_k"),
    ("POST", "/v1/attribute", {**ASK, "options": {"top_kk": 3}}, 400, "options.top_kk"),
    ("POST", "/v1/attribute", {**ASK, "nonsense": 1}, 400, "nonsense"),
    ("POST", "/v1/attribute?exclude_creators=Ann", ASK, 400, "exclude_creators"),
    ("POST", "/v1/attribute:batch?top_k=3", {"queries": []}, 400, "top_k"),
    ("POST", "/v1/attribute", {"query": {"prompt": 3, "image": ""}}, 400, "query.prompt"),
    ("POST", "/v1/attribute", {"query": {"image": "data:image/png;base64,aGk="}}, 400, "query.image"),
    ("POST", "/v1/attribute", {"query": {"image": "aG%%k="}}, 400, "query.image"),
    ("POST", "/v1/attribute", {"query": {"image": 3}}, 400, "query.image"),
    ("POST", "/v1/attribute:batch", {"queries": [{"prompt": "a"}, {"image": "!"}]}, 400, "queries[1].image"),
    ("POST", "/v1/attribute", {"query": 3}, 400, "query"),
    ("POST", "/v1/attribute", {**ASK, "options": {"top_k": True}}, 400, "options.top_k"),
    ("GET", "/v1/items/none", None, 400, "id"),
    ("GET", "/v1/items?page_size=9&page_size=8", None, 400, "page_size"),
    ("GET", "/v1/creators?nonsense=1", None, 400, "nonsense"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "field"), WRONG)
async def test_what_is_wrong_is_named(site, method, path, body, status, field):
    _, _, ask = await site()
    got, _, text = await ask(method, path, body)
    assert (got, violated(text)) == (status, field)
    assert json.loads(text)["code"] == 3


async def test_a_wrong_value_is_explained_in_plain_words(site):
    _, _, ask = await site()
    asked = {**ASK, "options": {"filter": {"exclude_creators": "Ann"}}}
    _, _, text = await ask("POST", "/v1/attribute", asked)
    assert json.loads(text)["message"] == "options.filter.exclude_creators: must be a list"
    # What comes before a comma is no part of base64, and was left out of the picture in silence.
    _, _, text = await ask("POST", "/v1/attribute", {"query": {"image": "data:image/png;base64,aGk="}})
    assert json.loads(text)["message"].startswith("query.image: must be base64")


async def test_a_name_given_twice_is_refused(site):
    _, _, ask = await site()
    body = b'{"query": {}, "options": {"filter": {"exclude_creators": ["Ann"]}}, "options": {}}'
    status, _, text = await ask("POST", "/v1/attribute", body, JSON)
    assert (status, violated(text)) == (400, "options")


HOSTILE = [
    (b"{", JSON),
    (b"[]", JSON),
    (b"\xff\xfe", JSON),
    (b"[" * 100_000, JSON),
    (b'{"query": ' * 60_000, JSON),
    (b'{"query":{"pixels":{"height":' + b"9" * 100_000 + b"}}}", JSON),
    (b'{"query":{"prompt":"\\ud800","image":"AAAA"}}', JSON),
    (b"{" + b'"a":[],' * 300_000 + b'"b":1}', JSON),
    (b"x", {"content-type": "text/plain"}),
    (b"x", {}),
    (b"x", {"content-type": "multipart/form-data"}),
    (b"x", {"content-type": "multipart/form-data; boundary=edge"}),
    (b"--edge\r\n\r\nno name\r\n--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}),
    (b"\x1f\x8b", {**JSON, "content-encoding": "gzip"}),
    form(image="text, not a file"),
    form(image=[b"a", b"b"]),
    form(image=b"a", prompt=["one", "two"]),
    form(image=b"a", top_k="none"),
    form(image=b"a", timings="perhaps"),
    form(image=b"a", nonsense="1"),
    form(prompt="no picture"),
    form(image=b"a", **{f"field{number}": "x" for number in range(2_000)}),
]


@pytest.mark.parametrize(("body", "headers"), HOSTILE)
async def test_hostile_bodies_are_refused_as_the_callers_fault(site, body, headers):
    gateway, _, ask = await site()
    status, _, text = await ask("POST", "/v1/attribute", body, headers)
    assert status == 400 and json.loads(text)["details"][0]["@type"].endswith("BadRequest")
    assert (gateway.admission.in_use, gateway.admission.bytes_in_use) == (0, 0)


async def test_a_body_over_the_limit_is_refused_by_its_length_or_by_its_bytes(site):
    _, _, ask = await site(max_message_bytes=10_000)
    body, headers = form(image=b"x" * 20_000)
    assert (await ask("POST", "/v1/attribute", body, headers))[0] == 400

    def pieces():
        for _ in range(40):
            yield b"x" * 1_000

    status, _, text = await ask("POST", "/v1/attribute", pieces(), JSON)
    assert status == 400 and "limit" in json.loads(text)["message"]


async def test_a_picture_is_sent_as_a_form_or_as_base64(site, tiny_engine, picture):
    _, _, ask = await site(tiny_engine)
    body, headers = form(image=picture(3), prompt="a orange rectangle", top_k="2")
    _, _, sent = await ask("POST", "/v1/attribute", body, headers)
    asked = {
        "query": {"image": base64.b64encode(picture(3)).decode(), "prompt": "a orange rectangle"},
        "options": {"top_k": 2},
    }
    _, _, told = await ask("POST", "/v1/attribute", asked)
    assert json.loads(sent) == json.loads(told)
    assert json.loads(sent)["attribution"]["items"][0]["id"] == "1003"


async def test_a_form_to_embed_with_what_embed_has_not_is_refused(site, tiny_engine, picture):
    _, _, ask = await site(tiny_engine)
    body, headers = form(image=picture(3), exclude_creators="Ann")
    status, _, told = await ask("POST", "/v1/embed", body, headers)
    assert (status, violated(told)) == (400, "exclude_creators")


@pytest.mark.parametrize("kind", [ARROW, PARQUET])
async def test_a_batch_is_a_table_for_those_who_ask_for_one(site, tiny_engine, picture, kind):
    _, _, ask = await site(tiny_engine)
    body, headers = form(image=[picture(3), b"no picture"], top_k="2")
    _, got, data = await ask(
        "POST", "/v1/attribute:batch", body, {**headers, "accept": f"text/html, {kind};q=1"}
    )
    assert got["content-type"] == kind
    table = pa.ipc.open_stream(data).read_all() if kind == ARROW else pq.read_table(io.BytesIO(data))
    assert table.column("query").to_pylist() == [0, 0, 1]
    assert table.column("id").to_pylist()[0] == 1003
    assert table.column("error_field").to_pylist() == [None, None, "queries[1].image"]


async def test_a_page_of_items_is_a_table_too(site, tiny_engine):
    _, _, ask = await site(tiny_engine)
    _, _, data = await ask("GET", "/v1/items?page_size=5&creator=Ann", None, {"accept": ARROW})
    table = pa.ipc.open_stream(data).read_all()
    assert table.column("creator").to_pylist() == ["Ann"] * 5
    assert table.schema.metadata[b"next_page_token"]


async def test_unknown_paths_and_methods_are_statuses(site):
    _, _, ask = await site()
    for method, path, status, code in (("GET", "/none", 404, 5), ("GET", "/v1/attribute", 405, 12)):
        got, _, body = await ask(method, path)
        assert (got, json.loads(body)["code"]) == (status, code)
    # The page is not there unless it was asked for.
    assert (await ask("GET", "/"))[0] == 404


async def test_a_port_that_is_taken_is_an_error_of_that_setting(serve, engine):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InvalidArgumentError, match="http_port"),
    ):
        await serve(engine, http_port=taken.getsockname()[1])


def test_the_committed_description_is_that_of_the_contract():
    spec = importlib.util.spec_from_file_location("openapi", ROOT / "proto" / "openapi.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = json.loads(OPENAPI.read_bytes())
    assert written == module.describe(), "run .venv/bin/python proto/openapi.py"
    described = written["components"]["schemas"]
    for message in (pb.Attribution, pb.Options, pb.Filter, pb.Limits):
        names = {field.name for field in message.DESCRIPTOR.fields}
        assert set(described[message.DESCRIPTOR.name]["properties"]) == names


def test_errors_in_json_are_the_statuses_of_grpc():
    from attributary.gateway.http.replies import refusal

    for error in (InvalidArgumentError("query.image", "is wrong"), OverloadedError("full", 2.5)):
        status = to_status(error)
        told = json.loads(bytes(refusal(status).body))
        assert (told["code"], told["message"]) == (status.code, status.message)
        assert told["details"][0]["@type"].startswith("type.googleapis.com/google.rpc.")
    assert refusal(to_status(OverloadedError("full", 2.5))).headers["retry-after"] == "3"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_of_both_versions(serve, engine, version):
    gateway, _ = await serve(engine)
    name = f"grpc.reflection.{version}.ServerReflection"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        ask = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="attributary.v1.Query"),
        ]
        replies = [reply async for reply in ask(iter(asked))]
    listed = {service["name"] for service in MessageToDict(replies[0])["listServicesResponse"]["service"]}
    assert {name, "attributary.v1.AttributionService"} <= listed
    assert all(reply.HasField("file_descriptor_response") for reply in replies[1:])


def test_the_page_turns_http_on():
    assert GatewayConfig(ui=True).http_port == 8080
    assert GatewayConfig(ui=True, http_port=0).http_port == 0
    assert GatewayConfig().http_port == -1


async def test_items_and_creators_are_searched(site, tiny_engine):
    _, _, ask = await site(tiny_engine)
    _, _, body = await ask("GET", "/v1/items?search=PURPLE%20ell&page_size=5")
    found = json.loads(body)["items"]
    assert [item["caption"] for item in found] == ["a purple ellipse"] * 5
    _, _, body = await ask("GET", "/v1/creators?search=b")
    assert [creator["name"] for creator in json.loads(body)["creators"]] == ["Bo"]
    status, _, body = await ask("GET", f"/v1/items?search={'x' * 201}")
    assert (status, violated(body)) == (400, "search")
    assert json.loads((await ask("GET", "/v1/items?search=nothing%20at%20all"))[2])["items"] == []


async def test_a_bundle_without_pictures_has_none_to_show(site, tiny_engine):
    _, _, ask = await site(tiny_engine)
    status, _, body = await ask("GET", "/v1/items/1003/thumbnail")
    assert (status, json.loads(body)["details"][0]["reason"]) == (404, "THUMBNAIL_NOT_FOUND")
    assert (await ask("GET", "/v1/items/5/thumbnail"))[0] == 404
