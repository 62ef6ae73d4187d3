"""The Tritons behind the addresses that were given, taken in turn: names of `dns:///` are looked up again and again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from itertools import count
from time import monotonic
from typing import Any, Final

import grpc.aio
from tritonclient.grpc import service_pb2_grpc

from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.proxy import channel_options

_DNS: Final = "dns:///"
# A replica that is new gets its first request so much later at most.
_RESOLVE_S: Final = 2.0
# Requests under way at a replica whose address has gone are finished.
_GRACE_S: Final = 60.0
# A server that is back must be found again within a second, not after gRPC's two minutes.
_CHANNEL: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A machine that has vanished sends no reset; these find out.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class Replicas:
    """Connections for one event loop, one a server. `addresses` are host:port or dns:///name:port."""

    def __init__(self, addresses: Sequence[str]) -> None:
        if not addresses:
            raise InvalidArgumentError("triton_url", "must be given")
        self._addresses = tuple(addresses)
        for address in addresses:
            if address.startswith(_DNS):
                _split(address)
        self._servers: dict[str, tuple[grpc.aio.Channel, Any]] = {}
        self._resolved = -_RESOLVE_S
        self._resolving = asyncio.Lock()
        self._turn = count()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def alone(self) -> bool:
        """Whether there is one server, and it cannot become several."""
        return len(self._addresses) == 1 and not self._addresses[0].startswith(_DNS)

    async def in_turn(self) -> list[Any]:
        """Return the stubs of every server, each call beginning with the next; raises UnavailableError for none."""
        if not self._servers or (not self.alone and monotonic() - self._resolved >= _RESOLVE_S):
            async with self._resolving:
                if not self._servers or monotonic() - self._resolved >= _RESOLVE_S:
                    await self._resolve()
        stubs = [stub for _, stub in self._servers.values()]
        first = next(self._turn) % len(stubs)
        return stubs[first:] + stubs[:first]

    async def close(self) -> None:
        """End the connections."""
        for channel, _ in self._servers.values():
            await channel.close()
        self._servers = {}
        for task in self._closing:
            task.cancel()

    async def _resolve(self) -> None:
        found: dict[str, None] = {}
        for address in self._addresses:
            found.update(dict.fromkeys(await _look_up(address)))
        if not found and not self._servers:
            raise UnavailableError(f"no address of {', '.join(self._addresses)} is known")
        # A name that cannot be looked up just now leaves what was known of it.
        if found:
            self._replace(found)
        self._resolved = monotonic()

    def _replace(self, found: Iterable[str]) -> None:
        wanted = dict.fromkeys(found)
        for address in [address for address in self._servers if address not in wanted]:
            channel, _ = self._servers.pop(address)
            task = asyncio.ensure_future(channel.close(_GRACE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for address in wanted:
            if address not in self._servers:
                channel = grpc.aio.insecure_channel(address, options=(*_CHANNEL, *channel_options(address)))
                self._servers[address] = channel, service_pb2_grpc.GRPCInferenceServiceStub(channel)


async def _look_up(address: str) -> list[str]:
    if not address.startswith(_DNS):
        return [address]
    host, port = _split(address)
    try:
        entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = sorted({str(entry[4][0]) for entry in entries})
    return [f"[{found}]:{port}" if ":" in found else f"{found}:{port}" for found in hosts]


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix(_DNS).rpartition(":")
    if not host or not port.isdigit():
        raise InvalidArgumentError("triton_url", f"must be dns:///name:port, got {address!r}")
    return host.strip("[]"), int(port)
