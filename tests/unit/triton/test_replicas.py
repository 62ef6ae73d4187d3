"""Several Tritons behind one client: asked in turn, passed over while they are away, followed when a name moves."""

import contextlib
import socket

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from attributary.errors import InvalidArgumentError, OverloadedError, PreconditionError, UnavailableError
from attributary.triton import client as module
from attributary.triton.client import TritonClient
from attributary.triton.engine import TritonLink

PIXELS = {"embedding": np.ones((1, 4), np.float32)}


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A Triton that counts what it is asked. `error` is what it answers instead."""

    def __init__(self, bundle_id="a"):
        self.asked, self.error, self.bundle_id = 0, None, bundle_id

    async def ModelInfer(self, request, context):  # noqa: N802
        self.asked += 1
        if self.error is not None:
            await context.abort(*self.error)
        reply = service_pb2.ModelInferResponse()
        reply.outputs.add(name="row", datatype="INT64", shape=[1])
        reply.raw_output_contents.append(np.array([self.asked]).tobytes())
        return reply

    async def ModelReady(self, request, context):  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=request.name == self.bundle_id)

    async def ModelConfig(self, request, context):  # noqa: N802
        reply = service_pb2.ModelConfigResponse()
        for name, value in (("bundle_id", self.bundle_id), ("bundle", "/bundles/" + self.bundle_id)):
            reply.config.parameters[name].string_value = value
        return reply

    async def ModelStatistics(self, request, context):  # noqa: N802
        reply = service_pb2.ModelStatisticsResponse()
        reply.model_stats.add().inference_stats.success.count = 5
        return reply


@pytest.fixture
async def start():
    """Function: starts a server, returns (it, its address, what stops it)."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(servicer, address="127.0.0.1:0"):
            server = grpc.aio.server()
            service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
            port = server.add_insecure_port(address)
            await server.start()
            stack.push_async_callback(server.stop, None)
            return f"127.0.0.1:{port}", lambda: server.stop(None)

        yield make


@pytest.fixture
async def two(start):
    """(servers, addresses, what stops each, client)."""
    servers = [Server(), Server()]
    started = [await start(server) for server in servers]
    addresses = [address for address, _ in started]
    client = TritonClient(addresses, "auto")
    yield servers, addresses, [stop for _, stop in started], client
    await client.close()


async def ask(client, times=1):
    for _ in range(times):
        await client.infer("index", PIXELS, ("row",), 5)


async def test_requests_go_to_each_in_turn(two):
    servers, _, _, client = two
    await ask(client, 10)
    assert [server.asked for server in servers] == [5, 5]
    assert (await client.times("index", 5)).requests == 10
    # Shared memory is with one server, not with whichever has the turn.
    await client.share()
    assert not client.shares


@pytest.mark.parametrize(
    "error",
    [
        (grpc.StatusCode.NOT_FOUND, "no such model, yet"),
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"),
        None,
    ],
)
async def test_who_cannot_answer_passes_its_turn_on(two, error):
    servers, _, stops, client = two
    servers[0].error = error
    if error is None:
        await stops[0]()
    await ask(client, 10)
    assert servers[1].asked == 10
    assert await client.is_ready("a", 5)
    servers[1].error = (grpc.StatusCode.NOT_FOUND, "gone")
    with pytest.raises((UnavailableError, OverloadedError)):
        await ask(client)


async def test_a_refusal_is_not_asked_again_elsewhere(two):
    servers, _, _, client = two
    for server in servers:
        server.error = (grpc.StatusCode.INVALID_ARGUMENT, "wrong shape")
    with pytest.raises(RuntimeError, match="wrong shape"):
        await ask(client)
    assert sum(server.asked for server in servers) == 1


async def test_one_that_is_ready_is_enough(two):
    servers, _, _, client = two
    servers[0].bundle_id = "b"
    assert await client.is_ready("a", 5)
    assert await client.is_ready("b", 5)
    assert not await client.is_ready("c", 5)


async def test_nobody_is_followed_while_servers_do_not_agree(two):
    servers, addresses, stops, _ = two
    link = TritonLink(addresses)
    assert (await link.served(5))[0] == "a"
    servers[0].bundle_id = "b"
    with pytest.raises(PreconditionError, match="2 bundles"):
        await link.served(5)
    # One that is away has no say.
    await stops[1]()
    assert (await link.served(5))[0] == "b"
    await stops[0]()
    with pytest.raises(UnavailableError):
        await link.served(5)
    await link.close()


async def test_every_address_of_a_name_is_asked_and_those_that_come_later(start, monkeypatch):
    servers = [Server(), Server()]
    (first, _) = await start(servers[0])
    port = first.rpartition(":")[2]
    await start(servers[1], f"127.0.0.2:{port}")
    known = ["127.0.0.1"]

    async def look_up(self, host, port, **_):
        if not known:
            raise socket.gaierror("not now")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known]

    loop = type(__import__("asyncio").get_running_loop())
    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    monkeypatch.setattr(module, "_RESOLVE_S", 0.0)
    client = TritonClient(f"dns:///tritons:{port}")
    await ask(client, 4)
    assert [server.asked for server in servers] == [4, 0]
    known.append("127.0.0.2")
    await ask(client, 4)
    assert [server.asked for server in servers] == [6, 2]
    known.clear()
    await ask(client, 4)
    assert [server.asked for server in servers] == [8, 4]
    known.append("127.0.0.2")
    await ask(client, 4)
    assert [server.asked for server in servers] == [8, 8]
    await client.close()


async def test_a_name_that_nobody_knows_is_unavailable():
    client = TritonClient("dns:///nobody.invalid:8001")
    with pytest.raises(UnavailableError, match="no address"):
        await ask(client)


@pytest.mark.parametrize("address", ["dns:///", "dns:///name", "dns:///:8001", "dns:///name:http"])
def test_wrong_names(address):
    with pytest.raises(InvalidArgumentError, match="triton_url"):
        TritonClient(address)
