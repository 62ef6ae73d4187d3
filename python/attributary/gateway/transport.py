"""What the server asks of TLS, HTTP/2 and gRPC, and how a message gets in: bounded in bytes, in number and in time.

gRPC would receive and inflate a whole message before anybody is asked. Here a handler reads its message itself, once
its caller has been let in; compressed messages arrive as they were sent and are inflated up to the limit and no
further.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import math
import resource
import socket
import ssl
import zlib
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

import grpc
import structlog

from attributary.attribution.types import Limits
from attributary.errors import InvalidArgumentError, OverloadedError

from .admission import Pool
from .callers import Caller
from .config import MAX_INT, GatewayConfig
from .fairness import FairQueue
from .reload import Watched, read_guarded

log = structlog.get_logger(__name__)

# Beside the picture: prompt, filter lists, framing.
_ENVELOPE_BYTES: Final = 1 << 20
# What gRPC servers take where nobody says otherwise.
_CUSTOMARY_BYTES: Final = 4 << 20
# Headers of a call: a token and what tracing adds, not more.
_METADATA_BYTES: Final = 16 << 10
# A call waits in gRPC's own queue until the event loop takes it. gRPC would cancel what finds 1,000 calls there; the
# streams of a connection and the number of connections bound it instead, so that every call is answered and counted.
# Only calls that were taken back, which no stream counts, come to so many (`resets`): some seconds of work, 14 KB each.
_WAITING_CALLS: Final = 10_000
_A_DAY_S: Final = 86_400
_HANDSHAKE_S: Final = 10
_KEEPALIVE_S: Final = 60
# How long a message may take where others wait for its place.
_PATIENCE_S: Final = 0.25
_FEWEST_SLOTS: Final = 4
# Messages that are quicker and smaller leave no memory worth returning. It is returned when no other has come for a
# while, and while they keep coming once a minute: it takes half a second where there is much, and whoever wants memory
# meanwhile waits.
_SWIFT_S: Final = 0.1
_SMALL_BYTES: Final = 1 << 20
# What the allocator (glibc) keeps between messages, of three copies of each: else every one of 16 MB has twelve
# thousand pages cleared anew, on the event loop. Blocks of up to 32 MiB, its maximum, are kept so.
_KEPT_BYTES: Final = 128 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _MMAP_BYTES = -1, -3, 32 << 20
_TIDY_S: Final = 2.0
_TIDY_MOST_S: Final = 60.0
# Inflating more than this is left to a thread.
_AT_ONCE_BYTES: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b"


def address_of(host: str, port: int) -> str:
    """Return host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def check_host(host: str) -> None:
    """Raise InvalidArgumentError if nobody knows the host to listen on."""
    try:
        socket.getaddrinfo(host.strip("[]"), None)
    except OSError as error:
        raise InvalidArgumentError("host", f"{host!r} is no address of this machine: {error}") from None


def tls_files(config: GatewayConfig) -> list[Path]:
    """The files that TLS is made of."""
    return list(filter(None, (config.tls_cert, config.tls_key, config.tls_client_ca)))


def server_credentials(config: GatewayConfig) -> grpc.ServerCredentials | None:
    """Return TLS credentials that follow their files, None where TLS is off; raises InvalidArgumentError."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    certificate, key, authority = config.tls_cert, config.tls_key, config.tls_client_ca

    def read() -> grpc.ServerCertificateConfiguration:
        # gRPC would find damage only when somebody connects.
        server_context(config)
        authorities = None if authority is None else read_guarded(authority, "tls_client_ca")
        pair = (read_guarded(key, "tls_key"), read_guarded(certificate, "tls_cert"))
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)

    watched = Watched(read, tls_files(config))
    given = watched.value

    def newer() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        before, given = given, watched.value
        return None if given is before else given

    # The stubs do not know that None means "as before".
    return grpc.dynamic_ssl_server_credentials(given, newer, authority is not None)  # type: ignore[arg-type]


def server_context(config: GatewayConfig) -> ssl.SSLContext | None:
    """Return the same TLS for a plain socket, None where it is off; raises InvalidArgumentError."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    key = read_guarded(config.tls_key, "tls_key")
    chain = read_guarded(config.tls_cert, "tls_cert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, data, words in (("tls_cert", chain, b"CERTIFICATE"), ("tls_key", key, b"PRIVATE KEY")):
        if b"-----BEGIN" not in data or words not in data:
            raise InvalidArgumentError(name, f"holds no PEM block of a {words.decode().lower()}")
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgumentError(
            "tls_cert", f"is damaged, or does not belong to tls_key: {error}"
        ) from None
    if config.tls_client_ca is not None:
        authorities = read_guarded(config.tls_client_ca, "tls_client_ca")
        try:
            context.load_verify_locations(cadata=authorities.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise InvalidArgumentError("tls_client_ca", f"holds no certificate in PEM: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def message_limit(config: GatewayConfig, limits: Limits) -> int:
    """Return the largest gRPC message in bytes: unless it is set, the largest encoded picture and 1 MiB."""
    largest = max(limits.max_image_bytes, _CUSTOMARY_BYTES) + _ENVELOPE_BYTES
    return config.max_message_bytes or min(largest, MAX_INT)


def options(config: GatewayConfig, limit: int) -> tuple[tuple[str, int], ...]:
    """Return the channel arguments of the server; `limit` is the largest message in bytes."""
    age, idle = round(config.max_connection_age_s * 1e3), round(config.max_connection_idle_s * 1e3)
    return (
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * _METADATA_BYTES),
        # Messages arrive as they were sent; `inflate` knows the limit, gRPC's own filter does not.
        ("grpc.per_message_decompression", 0),
        # A second server on a taken port must fail, not share it; several processes have seen to that before.
        ("grpc.so_reuseport", int(config.processes > 1)),
        ("grpc.max_concurrent_streams", config.max_connection_calls),
        # Else streams below the limit are refused too, at random and uncounted.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.server.max_pending_requests", _WAITING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _WAITING_CALLS * 3 // 2),
        ("grpc.enable_channelz", 1),
        # Else what has waited for half a minute ends CANCELLED, unseen: the server sheds, and calls have deadlines.
        ("grpc.server_max_unrequested_time_in_server", _A_DAY_S),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_S * 1_000),
        ("grpc.max_connection_idle_ms", idle),
        ("grpc.max_connection_age_ms", age),
        # As long again for what runs on the connection, a stream for example.
        ("grpc.max_connection_age_grace_ms", age),
        ("grpc.keepalive_time_ms", _KEEPALIVE_S * 1_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
    )


def is_compressed(data: bytes) -> bool:
    """Say whether a message is gzip or zlib. No request of ours begins so: those tags are not in the contract."""
    return data[:2] == _GZIP or (data[:1] == b"\x78" and len(data) > 1 and (0x7800 | data[1]) % 31 == 0)


def inflate(data: bytes, limit: int) -> bytes:
    """Return a compressed message inflated; raises InvalidArgumentError beyond `limit` bytes, or if it is damaged."""
    # 32: gzip or zlib, by their heads.
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        inflated = stream.decompress(data, limit + 1)
    except zlib.error:
        raise InvalidArgumentError("request", "is compressed and damaged") from None
    if len(inflated) > limit:
        raise InvalidArgumentError("request", f"is larger than max when inflated: the limit is {limit} bytes")
    if not stream.eof:
        raise InvalidArgumentError("request", "is compressed and incomplete")
    return inflated


def keep_memory() -> None:
    """Let the allocator keep what a large message leaves for the next; `Receiver.sweep` returns it when none comes."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)


def allow_files(wanted: int) -> None:
    """Let the process open so many files, as far as the system lets it: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning("too few files for as many connections", wanted=wanted, most=most)


def give_memory_back() -> None:
    """Return what large messages have left behind; without it a burst stays for ever.

    A call that was refused while its message came in is garbage in a circle, and holds what has arrived of it.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Sender(Protocol):
    """A call whose message is to be read."""

    caller: Caller

    async def receive(self) -> bytes | None:
        """Return the next message as it was sent, None after the last."""

    def end(self, failure: Exception) -> None:
        """End the call with an error of ours."""


class Receiver:
    """A bounded number of messages on their way in. Used from the event loop only.

    gRPC holds what has arrived of a message until it is whole. So only as many are received at once as fit into
    `max_bytes`; others wait by turns of their callers, and whoever has been sending for long makes room for them. The
    last eighth of the places is for callers who have less than their part: large messages of one caller, however many,
    do not keep another's waiting.
    """

    def __init__(self, limit: int, max_bytes: int, max_waiting: int) -> None:
        self.limit = limit
        # Places; also of calls that have been given one and have not had their turn on the event loop yet.
        self._places = Pool(max(_FEWEST_SLOTS, max_bytes // limit), 0, 0.0)
        self._max_waiting = max_waiting
        self._reading: dict[Sender, float] = {}
        self._waiting: FairQueue[tuple[asyncio.Future[None], Caller]] = FairQueue()
        self._tidy_at = self._tidy_by = math.inf

    @property
    def unfinished(self) -> int:
        """Messages that are on their way in."""
        return len(self._reading)

    @property
    def untidy(self) -> bool:
        """Whether `sweep` has memory to give back."""
        return self._tidy_at < math.inf

    async def read(self, call: Sender) -> bytes | None:
        """Return the message of a call; None if there is none.

        Raises OverloadedError if others need the place of a slow one, InvalidArgumentError for a compressed message
        that is damaged or too large.
        """
        caller = call.caller
        await self._enter(call)
        data = None
        try:
            data = await call.receive()
            return await self.open(data)
        finally:
            # A message that took long was large, or its sender was slow: either way gRPC has held parts of it.
            now = monotonic()
            if now - self._reading.pop(call) > _SWIFT_S or len(data or b"") > _SMALL_BYTES:
                self._tidy_by = min(self._tidy_by, now + _TIDY_MOST_S)
                self._tidy_at = min(now + _TIDY_S, self._tidy_by)
            self._leave(caller)

    async def open(self, data: bytes | None) -> bytes | None:
        """Return a message inflated, if it is compressed."""
        if data is None or not is_compressed(data):
            return data
        if len(data) <= _AT_ONCE_BYTES >> 4:
            return inflate(data, self.limit)
        return await asyncio.to_thread(inflate, data, self.limit)

    def sweep(self, now: float) -> None:
        """Take places back for those who wait: from whoever holds most of them, the oldest first."""
        if now > self._tidy_at:
            self._tidy_at = self._tidy_by = math.inf
            asyncio.get_running_loop().run_in_executor(None, give_memory_back)
        wanted = len(self._waiting)
        if not wanted:
            return
        held = self._places.held
        late = [call for call, since in self._reading.items() if now - since > _PATIENCE_S]
        for call in sorted(late, key=lambda call: (-held(call.caller.name), self._reading[call]))[:wanted]:
            call.end(OverloadedError("the message came too slowly for a busy server", retry_after_s=1.0))

    async def _enter(self, call: Sender) -> None:
        places, caller = self._places, call.caller
        if places.has_part(caller.name) or (places.is_free() and not self._waiting):
            places.move(1, caller)
        else:
            if len(self._waiting) >= self._max_waiting:
                raise OverloadedError("too many messages are on their way in")
            turn = asyncio.get_running_loop().create_future()
            self._waiting.put(caller.path, (turn, caller))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave(caller)
                raise
        self._reading[call] = monotonic()

    def _leave(self, caller: Caller) -> None:
        places = self._places
        places.move(-1, caller)
        while self._waiting:
            turn, waiting = self._waiting.peek()
            if not turn.done():
                if not (places.is_free() or places.has_part(waiting.name)):
                    break
                places.move(1, waiting)
                turn.set_result(None)
            self._waiting.pop()
