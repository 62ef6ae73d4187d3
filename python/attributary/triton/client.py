"""Asking Triton over gRPC, on an event loop: tensors out and in, errors as this package's own.

The Tritons behind the addresses that were given are taken in turn; names of `dns:///` are looked up again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Any, Final, Literal, NoReturn

import grpc
import grpc.aio
import numpy as np
import structlog
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from attributary.errors import DeadlineError, InvalidArgumentError, OverloadedError, UnavailableError
from attributary.proxy import channel_options, is_loopback

from . import shared

log = structlog.get_logger(__name__)

TYPES: Final[Mapping[str, str]] = {
    "pixels": "UINT8",
    "token_ids": "INT64",
    "token_mask": "INT64",
    "embedding": "FP32",
    "filter": "UINT8",
}
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
    "UINT64": np.dtype("<u8"),
}
_SHARE_TIMEOUT_S: Final = 2.0
_LET_GO_S: Final = (0.01, 0.05, 0.2, 0.7)
# How Triton names a region that it does not have, whatever the status.
_NO_REGION: Final = "shared memory region"
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


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """What Triton has counted for one model since it was loaded."""

    requests: int
    queue_ms: float  # sums over all requests
    compute_ms: float


class TritonClient:
    """Connections to one Triton, or to several that serve the same, for one event loop.

    `addresses` are host:port of their gRPC services, or dns:///name:port for every address of a name. Requests go to
    them in turn; one that is away, full, or does not have the model yet passes its turn on. With `shared_memory="auto"`
    large inputs go through shared memory while a lone Triton is on this machine and takes it, see `share`; otherwise,
    and with "off", they are sent.

    Every method raises UnavailableError while Triton is away, or where it has no such model; OverloadedError if a
    queue of Triton is full or too slow; DeadlineError after `timeout_s`. What else Triton refuses is a defect of the
    caller: RuntimeError with its text.
    """

    # tritonclient's generated stubs and not its InferenceServerClient: that copies every tensor three times.
    def __init__(self, addresses: str | Sequence[str], shared_memory: Literal["auto", "off"] = "off") -> None:
        given = [addresses] if isinstance(addresses, str) else addresses
        self._replicas = Replicas(given)
        self._may_share = shared_memory == "auto" and self._replicas.alone and is_loopback(given[0])
        self._region: shared.Region | None = None
        self._sharing: asyncio.Task[None] | None = None
        self._registering = asyncio.Lock()

    @property
    def shares(self) -> bool:
        """Whether large inputs go through shared memory now."""
        return self._region is not None

    async def infer(
        self, model: str, tensors: Mapping[str, NDArray[Any]], outputs: tuple[str, ...], timeout_s: float
    ) -> dict[str, NDArray[Any]]:
        """Run one request; tensors as in docs/triton.md. Cancelling the task cancels the request in Triton."""
        region, places = self._region, {}
        if region is not None:
            large = {name: array for name, array in tensors.items() if array.nbytes >= shared.LEAST}
            places = {name: at for name, array in large.items() if (at := region.put(array)) is not None}
        try:
            request = _request(model, tensors, outputs, region, places)
            reply = await self._ask("ModelInfer", request, timeout_s)
        except _RegionLostError:
            # Triton has been started anew, and quickly.
            if self._lose(region):
                self._sharing = asyncio.ensure_future(self.share())
            reply = await self._ask("ModelInfer", _request(model, tensors, outputs, None, {}), timeout_s)
        finally:
            # A request that was given up may still be read in Triton; whatever it reads, nobody gets its answer.
            if region is not None:
                region.free(places.values())
        return {
            output.name: np.frombuffer(raw, _DTYPES[output.datatype]).reshape(output.shape)
            for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
        }

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Say whether a Triton can answer for a model; False, too, where none knows it."""
        request = service_pb2.ModelReadyRequest(name=model)
        return any(reply.ready for reply in await self._ask_all("ModelReady", request, timeout_s))

    async def config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """Return a model's config, as the JSON form of Triton's ModelConfig."""
        reply = await self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model), timeout_s)
        return MessageToDict(reply.config, preserving_proto_field_name=True)

    async def configs(self, model: str, timeout_s: float) -> list[dict[str, Any]]:
        """Return the config that each Triton which has the model knows."""
        request = service_pb2.ModelConfigRequest(name=model)
        replies = await self._ask_all("ModelConfig", request, timeout_s)
        return [MessageToDict(reply.config, preserving_proto_field_name=True) for reply in replies]

    async def times(self, model: str, timeout_s: float) -> ModelTimes:
        """Return a model's own statistics, added up."""
        request = service_pb2.ModelStatisticsRequest(name=model)
        requests, queue, compute = 0, 0, 0
        for reply in await self._ask_all("ModelStatistics", request, timeout_s):
            for version in reply.model_stats:
                counts = version.inference_stats
                requests += counts.success.count
                queue += counts.queue.ns
                compute += counts.compute_input.ns + counts.compute_infer.ns + counts.compute_output.ns
        return ModelTimes(requests, queue / 1e6, compute / 1e6)

    async def share(self) -> None:
        """Offer Triton a region of shared memory, where that is allowed and it is on this machine.

        A Triton that does not take it (another machine behind a tunnel, a container with a /dev/shm of its own,
        client shared memory switched off) is sent everything. The region has no name in /dev/shm any more when this
        returns; regions that killed gateways left in Triton are taken back.
        """
        # Two at once would leave Triton a region that nobody uses.
        async with self._registering:
            if self._may_share and self._region is None:
                await self._register()

    async def _register(self) -> None:
        shared.sweep()
        try:
            region = shared.Region()
        except OSError as error:
            log.info("no shared memory with Triton", reason=str(error))
            return
        try:
            register = service_pb2.SystemSharedMemoryRegisterRequest(
                name=region.name, key=region.key, offset=0, byte_size=region.size
            )
            await self._ask("SystemSharedMemoryRegister", register, _SHARE_TIMEOUT_S)
            self._region = region
            log.info("sharing memory with Triton", mebibytes=region.size >> 20)
            await self._retire_abandoned()
        except (RuntimeError, DeadlineError, UnavailableError, OverloadedError) as error:
            log.info("no shared memory with Triton", reason=str(error))
        finally:
            region.unlink()

    async def close(self) -> None:
        """End the connection, and take the shared memory back."""
        if self._sharing is not None:
            self._sharing.cancel()
        if self._region is not None:
            await self._unregister(self._region.name)
            self._region = None
        await self._replicas.close()

    def _lose(self, region: shared.Region | None) -> bool:
        """Forget a region; False if another request has, so that one of them sees to the next."""
        if self._region is not region:
            return False
        self._region = None
        return True

    async def _retire_abandoned(self) -> None:
        known = await self._ask(
            "SystemSharedMemoryStatus", service_pb2.SystemSharedMemoryStatusRequest(), _SHARE_TIMEOUT_S
        )
        for name in known.regions:
            if shared.abandoned(name):
                await self._unregister(name)

    async def _unregister(self, name: str) -> None:
        """Take a region back from Triton; one that it goes on naming is left after a second."""
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=name)
        with contextlib.suppress(RuntimeError, DeadlineError, UnavailableError, OverloadedError):
            # Triton lets go of a request's tensors some time after its answer. Until then 2.51 refuses; later ones put
            # it off, and can miss it where the last of the tensors goes just then.
            for pause_s in _LET_GO_S:
                with contextlib.suppress(RuntimeError):
                    await self._ask("SystemSharedMemoryUnregister", request, _SHARE_TIMEOUT_S)
                known = await self._ask(
                    "SystemSharedMemoryStatus",
                    service_pb2.SystemSharedMemoryStatusRequest(),
                    _SHARE_TIMEOUT_S,
                )
                if name not in known.regions:
                    return
                await asyncio.sleep(pause_s)

    async def _ask(self, method: str, request: Any, timeout_s: float) -> Any:
        stubs = await self._replicas.in_turn()
        for left, stub in zip(reversed(range(len(stubs))), stubs, strict=True):
            try:
                return await _call(stub, method, request, timeout_s)
            except (UnavailableError, OverloadedError):
                if not left:
                    raise
        raise AssertionError("there is at least one server")

    async def _ask_all(self, method: str, request: Any, timeout_s: float) -> list[Any]:
        """Return the replies of all that answer; raises what the last one did where none does."""
        stubs = await self._replicas.in_turn()
        calls = (_call(stub, method, request, timeout_s) for stub in stubs)
        replies = await asyncio.gather(*calls, return_exceptions=True)
        answered = [reply for reply in replies if not isinstance(reply, BaseException)]
        if not answered and isinstance(replies[-1], BaseException):
            raise replies[-1]
        return answered


class _RegionLostError(RuntimeError):
    """Triton does not have the shared memory that a request speaks of."""


def _request(
    model: str,
    tensors: Mapping[str, NDArray[Any]],
    outputs: tuple[str, ...],
    region: shared.Region | None,
    places: Mapping[str, int],
) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in tensors.items():
        tensor = request.inputs.add(name=name, datatype=TYPES[name], shape=array.shape)
        if name in places and region is not None:
            tensor.parameters["shared_memory_region"].string_param = region.name
            tensor.parameters["shared_memory_byte_size"].int64_param = array.nbytes
            tensor.parameters["shared_memory_offset"].int64_param = places[name]
        else:
            request.raw_input_contents.append(array.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


async def _call(stub: Any, method: str, request: Any, timeout_s: float) -> Any:
    try:
        return await getattr(stub, method)(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        _raise(error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Not our caller: the channel was closed under the request.
        raise UnavailableError("the connection to Triton was closed") from None


def _raise(error: grpc.aio.AioRpcError) -> NoReturn:
    """Raise our error for Triton's."""
    code, text = error.code(), error.details() or ""
    if code == grpc.StatusCode.UNAVAILABLE and ("queue size" in text or "timeout expired" in text):
        raise OverloadedError(f"Triton is overloaded: {text}") from None
    if _NO_REGION in text:
        raise _RegionLostError(text) from None
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND}:
        raise UnavailableError(f"Triton cannot answer: {text}") from None
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        raise DeadlineError("Triton did not answer before the deadline") from None
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        raise OverloadedError(f"Triton is overloaded: {text}") from None
    raise RuntimeError(f"Triton refused the request: {code.name}: {text}") from None


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
