"""HTTP beside gRPC: the same tokens, permits, deadlines and connections; who leaves, stalls or comes from elsewhere."""

import asyncio
import json
import socket
import threading
import time

import pytest
from h11 import _readers

from tests.support.http_calls import ASK, form, violated


async def test_tokens_and_rates_are_those_of_grpc(site, tmp_path):
    (tmp_path / "tokens").write_text("ada secret rate=1\n")
    _, _, ask = await site(tokens_file=tmp_path / "tokens")
    status, headers, body = await ask("POST", "/v1/attribute", ASK)
    assert (status, headers["www-authenticate"], json.loads(body)["code"]) == (401, "Bearer", 16)
    known = {"authorization": "Bearer secret"}
    codes = [(await ask("POST", "/v1/attribute", ASK, known)) for _ in range(4)]
    assert [code for code, _, _ in codes] == [200, 200, 429, 429]
    assert codes[-1][1]["retry-after"] == "1"
    # Who is up and what may be asked is no secret.
    assert (await ask("GET", "/healthz"))[0] == 200


async def test_permits_are_shared_with_grpc(site, engine, vector):
    _, client, ask = await site(permits=1, max_delay_ms=0)
    engine.gate.clear()
    held = asyncio.ensure_future(client.attribute(embedding=vector(0.5)))
    await asyncio.to_thread(engine.started.acquire, timeout=30)
    status, headers, _ = await ask("POST", "/v1/attribute", ASK)
    assert status == 429 and "retry-after" in headers
    engine.gate.set()
    await held


async def test_a_body_that_does_not_arrive_ends_in_time(site):
    gateway, _, _ = await site(receive_s=0.3)

    def slow():
        with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as line:
            line.sendall(
                b"POST /v1/attribute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: 100\r\n\r\n{"
            )
            return line.makefile("rb").readline()

    assert b"504" in await asyncio.to_thread(slow)
    assert gateway.admission.in_use == 0


@pytest.mark.parametrize("sent", [b"", b"POST /v1/attri", b"GET / HTTP/1.1\r\nhost: loc"])
async def test_a_head_that_does_not_arrive_is_hung_up_on(site, sent):
    gateway, _, _ = await site(receive_s=0.3)

    def slow():
        with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as line:
            line.sendall(sent)
            try:
                return line.recv(100)
            except ConnectionResetError:
                return b""

    assert await asyncio.to_thread(slow) == b""


_CHUNKED = (
    b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


async def test_a_body_in_chunks_of_one_byte_is_refused(site):
    gateway, _, _ = await site()

    def tiny():
        with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as line:
            # Few enough that the event loop is not held up before: 300 connections take their turns with these.
            line.sendall(_CHUNKED % b"/v1/attribute" + b"1\r\n \r\n" * 300)
            return line.makefile("rb").read()

    assert b" 400 " in await asyncio.to_thread(tiny)


async def test_a_body_in_chunks_of_some_kilobytes_is_read(site):
    gateway, _, _ = await site()
    body = json.dumps(ASK).encode()
    pieces = [body[:10], body[10:], *[b" " * 1_024] * 2_000]

    def chunked():
        with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as line:
            line.sendall(_CHUNKED % b"/v1/attribute")
            for piece in [*pieces, b""]:
                line.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            return line.makefile("rb").readline()

    assert b" 200 " in await asyncio.to_thread(chunked)


async def test_a_body_that_breaks_after_its_answer_is_no_event(site, caplog):
    gateway, _, _ = await site()

    def breaks():
        with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as line:
            line.sendall(_CHUNKED % b"/nothing")
            answer = line.makefile("rb")
            first = answer.readline()
            line.sendall(b"zz\r\n")
            answer.read()
            return first

    assert b" 404 " in await asyncio.to_thread(breaks)
    assert caplog.records == []


async def test_each_answer_of_a_connection_has_its_own_time_to_be_taken(site, tmp_path):
    report = tmp_path / "report.html"
    report.write_bytes(b"x" * (8 << 20))
    gateway, _, _ = await site(call_s=1.0, ui=True, ui_report=report)

    def take_slowly():
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
            line.settimeout(30)
            line.connect(("127.0.0.1", gateway.http_port))
            answer = line.makefile("rb")
            for _ in range(3):
                line.sendall(b"GET /report HTTP/1.1\r\nhost: localhost\r\n\r\n")
                while answer.readline().strip():
                    pass
                time.sleep(0.6)
                yield len(answer.read(8 << 20))

    assert await asyncio.to_thread(lambda: list(take_slowly())) == [8 << 20] * 3


async def test_a_caller_who_leaves_ends_its_query(site, engine):
    gateway, _, _ = await site()
    engine.gate.clear()
    body = json.dumps(ASK).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.http_port)
    writer.write(
        b"POST /v1/attribute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    await asyncio.to_thread(engine.started.acquire, timeout=30)
    writer.close()
    async with asyncio.timeout(30):
        while gateway.admission.in_use:
            await asyncio.sleep(0.01)
    engine.gate.set()


async def test_a_deadline_is_kept(site, engine):
    _, _, ask = await site()
    engine.gate.clear()
    threading.Timer(0.5, engine.gate.set).start()
    status, _, body = await ask("POST", "/v1/attribute", ASK, {"x-timeout-seconds": "0.05"})
    assert (status, json.loads(body)["code"]) == (504, 4)
    status, _, body = await ask("POST", "/v1/attribute", ASK, {"x-timeout-seconds": "nan"})
    assert (status, violated(body)) == (400, "x-timeout-seconds")


async def test_a_defect_is_a_reference_and_nothing_else(site):
    _, _, ask = await site()
    body, headers = form(image=b"defect")
    status, _, text = await ask("POST", "/v1/attribute", body, headers)
    assert status == 500 and b"secret" not in text
    assert json.loads(text)["details"][0]["reason"] == "DEFECT"


async def test_while_the_server_drains_it_says_so(site, engine, vector):
    gateway, client, ask = await site()
    engine.gate.clear()
    held = asyncio.ensure_future(client.attribute(embedding=vector(0.5)))
    await asyncio.to_thread(engine.started.acquire, timeout=30)
    draining = asyncio.ensure_future(gateway.drain(20))
    async with asyncio.timeout(30):
        while not gateway.admission.closed:
            await asyncio.sleep(0.01)
    assert (await ask("POST", "/v1/attribute", ASK))[0] == 503
    assert (await ask("GET", "/healthz"))[0] == 503
    engine.gate.set()
    await held
    await draining


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "localhost:80"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
async def test_pages_of_others_get_nothing(site, headers, status):
    _, _, ask = await site()
    got, told, _ = await ask("POST", "/v1/attribute", ASK, headers)
    assert got == status
    assert "default-src 'none'" in told["content-security-policy"]
    assert not any(name.lower().startswith("access-control") for name in told)


HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = (
    b"POST /v1/attribute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        # Tens of thousands of these hold the event loop up for a third of a second.
        (HEALTH + b"a:\r\n" * 1_000 + b"\r\n", b"400"),
        (HEALTH + b"a: b\r\n" + b" c\r\n" * 1_000 + b"\r\n", b"400"),
        (HEALTH + b"a: " + b"b" * 40_000 + b"\r\n\r\n", b"400"),
        (CHUNKED + b"a:\r\n" * 1_000 + b"\r\n", b"400"),
        (HEALTH + b"a:\r\n" * 100 + b"\r\n", b"200"),
        (HEALTH + b"authorization: Bearer " + b"b" * 24_000 + b"\r\n\r\n", b"200"),
    ],
)
async def test_a_head_has_so_many_lines(site, monkeypatch, sent, status):
    parsed, parse = [], _readers.validate
    monkeypatch.setattr(_readers, "validate", lambda *given: (parsed.append(given), parse(*given))[1])
    gateway, _, _ = await site()

    def ask():
        with socket.create_connection(("127.0.0.1", gateway.http_port), timeout=30) as line:
            line.sendall(sent)
            return line.recv(12)

    assert await asyncio.to_thread(ask) == b"HTTP/1.1 " + status
    assert len(parsed) < 150


async def test_a_callers_name_is_never_taken_from_a_header(site, engine):
    seen = []
    gateway, _, ask = await site()
    caller = gateway._front._caller

    def watch(*given):
        found = caller(*given)
        seen.append(found.name)
        return found

    gateway._front._caller = watch
    await ask("POST", "/v1/attribute", ASK, {"x-forwarded-for": "10.9.8.7", "forwarded": "for=10.9.8.7"})
    assert seen == ["ipv4:127.0.0.1"]
