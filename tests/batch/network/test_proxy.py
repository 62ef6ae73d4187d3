"""Law 11: loopback is not proxied, and an error on the way through a proxy says proxy."""

import pytest

from attributary.client import Client
from attributary.errors import UnavailableError
from attributary.proxy import blamed, is_loopback, proxy_of


@pytest.fixture
def proxied(monkeypatch, free_port):
    for name in ("grpc_proxy", "https_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://someone:secret@127.0.0.1:{free_port}")
    return f"http://127.0.0.1:{free_port}"


def test_a_server_on_this_machine_is_asked_directly(server, proxied, picture):
    for address in (server.address, server.address.replace("127.0.0.1", "localhost")):
        with Client(address, retry=False, timeout_s=20) as client:
            assert client.attribute(picture(0)).items


def test_an_error_names_the_proxy(proxied):
    with (
        Client("attributary.invalid:50051", retry=False, timeout_s=5) as client,
        pytest.raises(UnavailableError, match=f"through the proxy {proxied}; no_proxy") as error,
    ):
        client.describe()
    assert "secret" not in str(error.value)


def test_which_addresses_are_this_machine():
    for address in (
        "127.0.0.1:1", "localhost:1", "LOCALHOST:1", "[::1]:1", "dns:///localhost:1", "unix:/tmp/x",
        "127.9.9.9:1", "a.localhost:1", "ipv4:127.0.0.1:1",
    ):  # fmt: skip
        assert is_loopback(address), address
    for address in ("10.0.0.1:1", "localhost.example.org:1", "example.org:1", "[2001:db8::1]:1"):
        assert not is_loopback(address), address


def test_exceptions_go_without(monkeypatch, proxied):
    assert proxy_of("host.example.org:1")
    monkeypatch.setenv("no_proxy", "other.org,.example.org")
    assert proxy_of("host.example.org:1") == ""
    assert blamed("away", "") == "away"
