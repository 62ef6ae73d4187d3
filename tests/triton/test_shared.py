"""Shared memory with a Triton on the same machine: the same answers, and nothing left by anyone who is killed."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc

from attributary.proxy import is_loopback
from attributary.triton import shared
from attributary.triton.client import TritonClient, _RegionLostError
from attributary.triton.shared import Region, abandoned

from .test_faults import until


@pytest.fixture
def region():
    """A small region, its name gone afterwards."""
    made = Region(1 << 16)
    yield made
    made.unlink()


def test_places_are_given_and_taken_back(region):
    first, second = np.arange(100, dtype=np.int64), np.full((10, 1000), 7, np.uint8)
    at, after = region.put(first), region.put(second)
    file = np.fromfile(Path("/dev/shm") / region.name, np.uint8)
    assert (file[at : at + 800].view(np.int64) == first).all()
    assert (file[after : after + 10_000] == 7).all()
    assert region.put(np.zeros(60_000, np.uint8)) is None
    region.free([at])
    assert region.put(np.ones(800, np.uint8)) == at
    region.free([at, after])
    assert region.put(np.zeros(1 << 16, np.uint8)) == 0


def test_no_two_places_meet(region):
    rng = np.random.default_rng(0)
    held = {}
    for _ in range(500):
        if held and rng.random() < 0.5:
            start = list(held)[rng.integers(len(held))]
            region.free([start])
            del held[start]
        size = int(rng.integers(1, 9000))
        start = region.put(np.zeros(size, np.uint8))
        if start is None:
            continue
        assert start + size <= region.size
        assert all(start + size <= other or start >= end for other, end in held.items())
        held[start] = start + size


def test_memory_that_cannot_be_had_is_an_error_now(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = set(Path("/dev/shm").iterdir())
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        Region()
    assert set(Path("/dev/shm").glob("attributary-gateway-*")) <= before


@pytest.mark.parametrize("refuses", [True, False])
def test_a_region_that_triton_still_reads_is_taken_back_when_it_has_done(monkeypatch, refuses):
    monkeypatch.setattr(shared, "Region", lambda: Region(1 << 16))
    known, asked = set(), []

    async def ask():
        client = TritonClient("127.0.0.1:1", "auto")

        async def answer(method, request, timeout_s):
            if method == "SystemSharedMemoryRegister":
                known.add(request.name)
            elif method == "SystemSharedMemoryUnregister":
                asked.append(request.name)
                if len(asked) > 1:
                    known.discard(request.name)
                elif refuses:
                    raise _RegionLostError(f"Cannot unregister shared memory region '{request.name}'")
            return SimpleNamespace(regions=dict.fromkeys(known))

        monkeypatch.setattr(client, "_ask", answer)
        await client.share()
        assert len(known) == 1
        await client.close()

    asyncio.run(ask())
    assert not known
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:8001", True),
        ("localhost:8001", True),
        ("[::1]:8001", True),
        ("10.0.0.7:8001", False),
        ("triton:8001", False),
        ("localhost.example.org:8001", False),
    ],
)
def test_what_counts_as_this_machine(address, local):
    assert is_loopback(address) is local


def test_whose_region_is_abandoned(region):
    assert not abandoned(region.name)
    namespace, process, started, _ = region.name.removeprefix("attributary-gateway-").split("-")
    # An id that another process has now, an id of nobody, and one of another container.
    assert abandoned(f"attributary-gateway-{namespace}-{process}-1-00")
    assert abandoned(f"attributary-gateway-{namespace}-999999999-{started}-00")
    assert not abandoned(f"attributary-gateway-1-999999999-{started}-00")
    assert not abandoned("somebody-elses")
    assert not abandoned("attributary-gateway-x")


def test_names_left_in_the_machine_are_swept():
    code = "import os, attributary.triton.shared as shared; shared.Region(4096); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    left = [path for path in Path("/dev/shm").glob("attributary-gateway-*") if abandoned(path.name)]
    assert left
    shared.sweep()
    assert not any(path.exists() for path in left)


def test_two_requests_that_lose_a_region_register_one_new_one(monkeypatch):
    monkeypatch.setattr(shared, "LEAST", 1)
    monkeypatch.setattr(shared, "Region", lambda: Region(1 << 16))
    tensors = {"embedding": np.ones((1, 4), np.float32)}
    registered = []

    async def ask():
        client, forgotten = TritonClient("127.0.0.1:1", "auto"), asyncio.Event()

        async def answer(method, request, timeout_s):
            await asyncio.sleep(0)
            if method == "SystemSharedMemoryRegister":
                registered.append(request.name)
                if len(registered) > 1:
                    await asyncio.sleep(0.01)
            elif method == "SystemSharedMemoryStatus":
                return SimpleNamespace(regions={})
            elif method == "ModelInfer" and request.inputs[0].parameters:
                await forgotten.wait()
                raise _RegionLostError
            return SimpleNamespace(outputs=[], raw_output_contents=[])

        monkeypatch.setattr(client, "_ask", answer)
        await client.share()
        asking = [asyncio.create_task(client.infer("search", tensors, (), 1)) for _ in range(2)]
        await asyncio.sleep(0)
        forgotten.set()
        # A watch that looks after Triton offers a region, too.
        await asyncio.gather(*asking, client.share())
        await client._sharing
        await client.share()
        await client.close()

    asyncio.run(ask())
    assert len(registered) == len(set(registered)) == 2


def pictures(count):
    rng = np.random.default_rng(count)
    return {
        "pixels": rng.integers(0, 256, (count, 64, 64, 3), np.uint8),
        "token_ids": np.zeros((count, 1), np.int64),
        "token_mask": np.zeros((count, 1), np.int64),
    }


def sized(tensors, address):
    """The pictures at the size that the bundle's encoder takes."""
    with tritonclient.grpc.InferenceServerClient(address) as client:
        side = client.get_model_config("encoder").config.input[0].dims[0]
    repeats = -(-int(side) // 64)
    tensors["pixels"] = np.tile(tensors["pixels"], (1, repeats, repeats, 1))[:, :side, :side].copy()
    return tensors


def regions(address, process):
    """Names of the regions of one process that Triton has."""
    with tritonclient.grpc.InferenceServerClient(address) as client:
        return [name for name in client.get_system_shared_memory_status().regions if f"-{process}-" in name]


def test_the_same_answers_and_no_name_left(triton):
    inputs = sized(pictures(16), triton.grpc_address)
    assert inputs["pixels"].nbytes >= shared.LEAST

    async def ask():
        one, other = TritonClient(triton.grpc_address, "auto"), TritonClient(triton.grpc_address)
        await one.share()
        await other.share()
        assert (one.shares, other.shares) == (True, False)
        assert not list(Path("/dev/shm").glob(f"attributary-gateway-*-{os.getpid()}-*"))
        assert len(regions(triton.grpc_address, os.getpid())) == 1
        answers = [
            (await client.infer("encoder", inputs, ("embedding",), 20))["embedding"]
            for client in (one, other)
        ]
        together = await asyncio.gather(*(one.infer("encoder", inputs, ("embedding",), 20) for _ in range(5)))
        await one.close()
        await other.close()
        return answers, together

    (one, other), together = asyncio.run(ask())
    assert (one == other).all()
    for answer in together:
        assert answer["embedding"] == pytest.approx(other, abs=1e-5)
    assert regions(triton.grpc_address, os.getpid()) == []


def test_a_triton_that_has_forgotten_the_region(triton):
    inputs = sized(pictures(16), triton.grpc_address)

    async def ask():
        client = TritonClient(triton.grpc_address, "auto")
        await client.share()
        with tritonclient.grpc.InferenceServerClient(triton.grpc_address) as control:
            for name in regions(triton.grpc_address, os.getpid()):
                control.unregister_system_shared_memory(name)
        first = (await client.infer("encoder", inputs, ("embedding",), 20))["embedding"]
        for _ in range(100):
            if client.shares:
                break
            await asyncio.sleep(0.05)
        assert client.shares
        second = (await client.infer("encoder", inputs, ("embedding",), 20))["embedding"]
        await client.close()
        return first, second

    first, second = asyncio.run(ask())
    assert (first == second).all()


def test_a_triton_that_does_not_see_this_memory_is_sent_everything(triton, monkeypatch):
    """As behind a tunnel to another machine, or in a container with a /dev/shm of its own."""
    inputs = sized(pictures(16), triton.grpc_address)
    monkeypatch.setattr(Region, "key", property(lambda self: self.name + "-elsewhere"))

    async def ask():
        client = TritonClient(triton.grpc_address, "auto")
        await client.share()
        assert not client.shares
        answer = await client.infer("encoder", inputs, ("embedding",), 20)
        await client.close()
        return answer["embedding"]

    assert np.isfinite(asyncio.run(ask())).all()
    assert not list(Path("/dev/shm").glob(f"attributary-gateway-*-{os.getpid()}-*"))


def test_a_killed_gateway_leaves_nothing(triton, start_gateway):
    with start_gateway(triton) as first:
        until(lambda: len(regions(triton.grpc_address, first.process.pid)) == 1)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        assert not list(Path("/dev/shm").glob(f"attributary-gateway-*-{first.process.pid}-*"))
        with start_gateway(triton) as second:
            until(lambda: len(regions(triton.grpc_address, second.process.pid)) == 1)
            until(lambda: regions(triton.grpc_address, first.process.pid) == [])
        until(lambda: regions(triton.grpc_address, second.process.pid) == [])


def test_switched_off(triton, start_gateway, questions, expected):
    with start_gateway(triton, "--triton-shared-memory", "off") as gateway, gateway.client() as client:
        answer = client.attribute(questions[0].pixels, prompt=questions[0].prompt)
        assert [item.id for item in answer.items] == [item.id for item in expected[0].items]
        assert regions(triton.grpc_address, gateway.process.pid) == []
