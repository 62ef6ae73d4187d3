"""The GPU at hand: what it is called, and running an engine on it. Needs the package cuda-bindings."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attributary.errors import UnavailableError

from .golden import Run


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device."""

    name: str  # "NVIDIA H100 80GB HBM3"
    capability: str  # "SM90"
    memory_bytes: int


def first_gpu() -> Gpu:
    """Describe device 0; raises UnavailableError with CUDA's own reason if there is none."""
    cudart = _cudart()
    count = _done(cudart, cudart.cudaGetDeviceCount())
    if count < 1:
        raise UnavailableError("no CUDA device on this machine")
    found = _done(cudart, cudart.cudaGetDeviceProperties(0))
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return Gpu(name.rstrip("\0"), f"SM{found.major}{found.minor}", int(found.totalGlobalMem))


@contextmanager
def plan_runner(trt: Any, plan: bytes) -> Iterator[Run]:
    """Yield a function that runs an engine on device 0, one call at a time.

    `trt` is the module that built the plan. Raises UnavailableError if the plan does not load on this GPU.
    """
    cudart = _cudart()
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UnavailableError("the engine does not load on this GPU")
    context = engine.create_execution_context()
    stream = _done(cudart, cudart.cudaStreamCreate())

    def run(
        pixels: NDArray[np.uint8], token_ids: NDArray[np.int64], token_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        inputs = {"pixels": pixels, "token_ids": token_ids, "token_mask": token_mask}
        with _device_memory(cudart) as allocate:
            for name, array in inputs.items():
                # The name is rebound so that the host copy outlives the asynchronous transfer.
                inputs[name] = array = np.ascontiguousarray(array)
                context.set_input_shape(name, array.shape)
                address = allocate(array.nbytes)
                context.set_tensor_address(name, address)
                kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
                _done(cudart, cudart.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, stream))
            embedding = np.empty(tuple(context.get_tensor_shape("embedding")), np.float32)
            address = allocate(embedding.nbytes)
            context.set_tensor_address("embedding", address)
            if not context.execute_async_v3(stream):
                raise UnavailableError(f"the engine refused a batch of {len(pixels)}")
            kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
            _done(
                cudart, cudart.cudaMemcpyAsync(embedding.ctypes.data, address, embedding.nbytes, kind, stream)
            )
            _done(cudart, cudart.cudaStreamSynchronize(stream))
        return embedding

    try:
        yield run
    finally:
        cudart.cudaStreamDestroy(stream)


@contextmanager
def _device_memory(cudart: Any) -> Iterator[Any]:
    taken: list[int] = []

    def allocate(size: int) -> int:
        address = int(_done(cudart, cudart.cudaMalloc(max(size, 1))))
        taken.append(address)
        return address

    try:
        yield allocate
    finally:
        for address in taken:
            cudart.cudaFree(address)


def _done(cudart: Any, answer: tuple[Any, ...]) -> Any:
    """Unpack (status, value) of a CUDA call; raises UnavailableError with CUDA's words."""
    status, *values = answer
    if status != cudart.cudaError_t.cudaSuccess:
        _, text = cudart.cudaGetErrorString(status)
        raise UnavailableError(f"CUDA: {text.decode() if isinstance(text, bytes) else text}")
    return values[0] if values else None


def _cudart() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise UnavailableError(
            f"finding the GPU needs the package cuda-bindings ({error}); pip install 'attributary[tensorrt]'"
        ) from None
