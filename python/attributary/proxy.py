"""Which gRPC calls go through a proxy: never those to this machine, and an error on the way says so."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # in gRPC's own order
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def is_loopback(address: str) -> bool:
    """Whether an address (host:port, or a gRPC target such as dns:///host:port) is this machine's own."""
    host = _host(address)
    if address.startswith("unix") or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_of(address: str) -> str:
    """Return the proxy that the environment sends a call to this address through; empty for none."""
    if is_loopback(address):
        return ""
    found = next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), "")
    without = next((os.environ[name] for name in _EXCEPTIONS if os.environ.get(name)), "")
    host = _host(address)
    passed = any(host.endswith(name.strip()) for name in without.split(",") if name.strip())
    return "" if passed else found


def _host(address: str) -> str:
    target = address.rpartition("/")[2].removeprefix("ipv4:").removeprefix("ipv6:")
    named = target.count(":") == 1 or "]" in target
    return (target.rsplit(":", 1)[0] if named else target).strip("[]").partition("%")[0].rstrip(".").lower()


def channel_options(address: str) -> tuple[tuple[str, Any], ...]:
    """Return the options of a gRPC channel to this address."""
    # A proxy's loopback is another machine's.
    return (("grpc.enable_http_proxy", int(not is_loopback(address))),)


def blamed(message: str, proxy: str) -> str:
    """Return the text of an error on the way to a server, with the proxy that was between."""
    if not proxy:
        return message
    where = urlsplit(proxy)
    # Without the user and password that it may hold.
    shown = f"{where.scheme}://{where.hostname or '?'}:{where.port or ''}".rstrip(":")
    return f"{message} (through the proxy {shown}; no_proxy=HOST goes without)"
