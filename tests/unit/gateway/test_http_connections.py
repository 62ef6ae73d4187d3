"""Connections over HTTP: so many in all, so many of one caller, over TLS from before their handshake."""

import asyncio
import contextlib
import http.client
import json
import resource
import socket

import pytest

from attributary.gateway import transport
from attributary.gateway.http import server
from tests.support.certificates import certificate


@contextlib.contextmanager
def crowd(port, count):
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(count)
        ]


def healthy(port, source="127.0.0.1"):
    """The status of a probe, None where it is hung up on."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(source, 0))
    try:
        line.request("GET", "/healthz")
        return line.getresponse().status
    except OSError:
        return None
    finally:
        line.close()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def held(gateway):
    return gateway._http._connections._pool.used


async def test_one_connection_too_many_is_told_so_and_counted(site):
    gateway, _, _ = await site(max_connections=3)

    def refused():
        with crowd(gateway.http_port, 4) as lines:
            answer = http.client.HTTPResponse(lines[-1])
            answer.begin()
            return answer.status, answer.getheader("retry-after"), json.loads(answer.read())["code"]

    assert await asyncio.to_thread(refused) == (429, "1", 8)
    labels = {"method": "connection", "code": "RESOURCE_EXHAUSTED"}
    assert gateway.metrics.registry.get_sample_value("attributary_requests_total", labels) == 1
    # Their places are free again.
    await until(lambda: held(gateway) == 0)
    assert await asyncio.to_thread(healthy, gateway.http_port) == 200


async def test_one_caller_leaves_connections_to_another(site):
    gateway, _, _ = await site(max_connections=16)

    def ask():
        with crowd(gateway.http_port, 16):
            return healthy(gateway.http_port, "127.0.0.2"), healthy(gateway.http_port)

    other, same = await asyncio.to_thread(ask)
    assert other == 200 and same in (429, None)


async def test_connections_without_a_handshake_are_counted_and_end(site, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_HANDSHAKE_S", 0.3)
    for name, pem in zip(("cert", "key"), certificate(), strict=True):
        (tmp_path / name).write_bytes(pem)
        (tmp_path / name).chmod(0o600)
    gateway, _, _ = await site(max_connections=2, tls_cert=tmp_path / "cert", tls_key=tmp_path / "key")

    def silent():
        with crowd(gateway.http_port, 3) as lines:
            return [line.recv(100) for line in reversed(lines)]

    assert await asyncio.to_thread(silent) == [b""] * 3
    await until(lambda: held(gateway) == 0)


async def test_without_a_free_file_the_server_waits_and_goes_on(site):
    gateway, _, _ = await site()
    taken, listener = gateway._http._connections, gateway._http._connections._listener

    class Full:
        failures = 1

        def fileno(self):
            return listener.fileno()

        def accept(self):
            if self.failures:
                self.failures -= 1
                raise OSError(24, "Too many open files")
            return listener.accept()

    taken._listener = full = Full()
    try:
        assert [await asyncio.to_thread(healthy, gateway.http_port) for _ in range(3)] == [200] * 3
    finally:
        taken._listener = listener
    assert not full.failures


async def test_what_waits_to_be_taken_is_taken_at_once(site):
    # One at a time, a flood of connections had kept another caller's waiting for as many turns of a busy event loop.
    gateway, _, _ = await site(max_connections=1_024)
    with crowd(gateway.http_port, 300):
        gateway._http._connections._accept()
        assert held(gateway) == 300


@pytest.mark.parametrize(("hard", "got"), [(4_096, 2_560), (resource.RLIM_INFINITY, 2_560), (2_000, 2_000)])
def test_as_many_files_as_connections_are_asked_for(monkeypatch, hard, got):
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    transport.allow_files(2_560)
    assert given == [(got, hard)]
    transport.allow_files(1_000)
    assert len(given) == 1
