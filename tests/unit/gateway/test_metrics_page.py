"""The Prometheus page under clients that do not behave."""

import contextlib
import socket
import threading
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from attributary.gateway import metrics_page
from attributary.gateway.metrics_page import MetricsPage


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(metrics_page, "_TIMEOUT_S", 0.5)
    registry = CollectorRegistry()
    Counter("seen", "Something.", registry=registry).inc()
    made = MetricsPage("127.0.0.1", 0, registry)
    yield made
    made.stop()


def read(page):
    with urllib.request.urlopen(f"http://127.0.0.1:{page.server_port}/metrics", timeout=20) as reply:
        return reply.read().decode()


def test_the_page(page):
    assert "seen_total 1.0" in read(page)


def test_half_requests_take_few_threads_for_a_short_time(page):
    before = threading.active_count()
    half = [socket.create_connection(("127.0.0.1", page.server_port)) for _ in range(50)]
    for number, peer in enumerate(half):
        if number % 2:
            peer.sendall(b"GET /metrics HT")
    # A thread and its watchdog each.
    assert threading.active_count() - before <= 2 * metrics_page._THREADS
    for peer in half:
        peer.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(100) == b""
        peer.close()
    assert "seen_total 1.0" in read(page)


def test_a_caller_that_sends_a_byte_now_and_then_is_hung_up_on(page):
    with socket.create_connection(("127.0.0.1", page.server_port)) as peer:
        peer.settimeout(0.05)
        ended = False
        for _ in range(200):
            try:
                peer.sendall(b"x")
                ended = peer.recv(100) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
            if ended:
                break
    assert ended
