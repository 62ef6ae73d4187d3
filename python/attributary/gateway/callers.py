"""Who is calling, and for what: the unit in which the server's capacity is shared out.

A caller is a token, a client certificate, or else an address. The current one travels as a context variable, as a
deadline does: queues and permits below ask for it, and nothing between has to hand it on.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache
from ipaddress import IPv4Address, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import unquote

from .tokens import Owner


class Caller(NamedTuple):
    """One caller on one connection; `bulk` is for streams and batches, which yield to single calls."""

    name: str = ""
    connection: str = ""
    bulk: bool = False
    owner: Owner = Owner("")

    @property
    def path(self) -> tuple[str, str, str]:
        """Where this caller's work queues: by kind, then by caller, then by connection."""
        return ("bulk" if self.bulk else "single", self.name, self.connection)


NOBODY = Caller()
# How many turns a kind of call gets where both wait.
WEIGHTS = {"single": 4.0, "bulk": 1.0}

_CURRENT: ContextVar[Caller] = ContextVar("attributary_caller", default=NOBODY)


def enter(caller: Caller) -> None:
    """Make `caller` the current one, for this task and those that it starts."""
    _CURRENT.set(caller)


def current() -> Caller:
    """Return who is being served by this task."""
    return _CURRENT.get()


def peer_of(host: str, port: int) -> str:
    """Return the other end of a connection as gRPC writes it."""
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


@lru_cache(4096)
def address_of(peer: str) -> str:
    """Return a gRPC peer ("ipv4:10.0.0.7:51312", "unix:") without its port: a caller has many connections.

    Of IPv6 its network of 64 bits: every machine has one of its own, and may call from each address in it.
    """
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return peer
    host = rest.rpartition(":")[0]
    try:
        found = ip_address(unquote(host).strip("[]").partition("%")[0])
    except ValueError:
        return f"{kind}:{host}"
    if isinstance(found, IPv4Address):
        return f"ipv4:{found}"
    if found.ipv4_mapped is not None:
        return f"ipv4:{found.ipv4_mapped}"
    return f"ipv6:{ip_network((found, 64), strict=False)}"
