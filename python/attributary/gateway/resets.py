"""Connections that begin calls and take them back faster than they are served (HTTP/2 rapid reset, CVE-2023-44487).

A call that was reset counts no more for `--max-connection-calls`, and yet waits in gRPC's queue, with its memory, until
the server has taken it. One connection had 30,000 of them there a second: everybody else waited for minutes, and the
memory had no end. gRPC keeps count of the calls of each connection for its diagnosis (channelz): who has several times
as many as may be open at once is hung up on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from .callers import peer_of
from .sockets import hang_up_on

# Where gRPC's own package for channelz asks; its types know nothing of it.
_channelz: Final[Any] = import_module("grpc._cython.cygrpc")
# Calls of one connection that may be there, in parts of those that may be open: some that ended are still put away,
# and callers whose deadlines pass while the server is busy leave some behind.
_PARTS: Final = 4


class Began(NamedTuple):
    """A connection, as gRPC names peers, and how many calls of it are open or wait."""

    peer: str
    calls: int


def hang_up_on_resets(port: int, most_calls: int, running: int) -> int:
    """End connections to a port with far more calls than `most_calls`; return how many.

    `running` is how many calls of all have been taken and have not ended: with few besides nothing is looked at.
    """
    too_many = _PARTS * most_calls
    ended = []
    for server in _asked(_channelz.channelz_get_servers, "server"):
        if _there(server["data"], "calls") - running > too_many:
            ended += [
                one.peer for one in _connections(server["ref"]["serverId"], port) if one.calls > too_many
            ]
    # Of those that have been ended already some calls still wait.
    return sum(map(hang_up_on, ended))


def _connections(server: str, port: int) -> Iterator[Began]:
    for entry in _asked(
        lambda start: _channelz.channelz_get_server_sockets(int(server), start, 0), "socketRef"
    ):
        try:
            found = json.loads(_channelz.channelz_get_socket(int(entry["socketId"])))["socket"]
        except ValueError:
            continue  # it has ended meanwhile
        local, remote = (found.get(end, {}).get("tcpipAddress", {}) for end in ("local", "remote"))
        if local.get("port") == port and remote:
            host = str(ip_address(base64.b64decode(remote["ipAddress"])))
            yield Began(peer_of(host, remote["port"]), _there(found["data"], "streams"))


def _there(data: dict[str, Any], what: str) -> int:
    """How many have begun and not ended."""
    began, *ended = (int(data.get(f"{what}{state}", 0)) for state in ("Started", "Succeeded", "Failed"))
    return began - sum(ended)


def _asked(ask: Callable[[int], str], name: str) -> Iterator[dict[str, Any]]:
    """All entries of a list that is told in pages; each has a `ref`, or is one, with a growing number."""
    start, more = 0, True
    while more:
        page = json.loads(ask(start))
        entries = page.get(name, [])
        yield from entries
        more = bool(entries) and not page.get("end")
        if more:
            last = entries[-1]
            start = int(next(iter(last.get("ref", last).values()))) + 1
