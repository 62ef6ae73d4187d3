"""TensorRT and CUDA, imported when they are needed: a plan built from an ONNX file, and run, on the GPU at hand.

Without a package or a GPU callers get an UnavailableError that says what is missing.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attributary.errors import AttributaryError, UnavailableError, imported

_KEPT_MESSAGES = 8
# Pixels [B, S, S, 3], token ids and mask [B, T] -> embeddings [B, D].
Embed: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


class EngineBuildError(AttributaryError):
    """The builder refused a graph or gave no engine; the text holds its reasons."""


class Gpu(NamedTuple):
    """A CUDA device: its name and compute capability, "9.0"."""

    name: str
    capability: str


def load_tensorrt() -> Any:
    """Import TensorRT; raises UnavailableError that says how to get it."""
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"TensorRT cannot be imported ({error}); pip install tensorrt-cu12 of the release that your Triton has, "
            "on a machine with an NVIDIA GPU (NVIDIA's licence applies; see docs/tensorrt.md)"
        ) from None


def build_plan(
    trt: Any, graph: Path, shapes: Mapping[str, tuple[tuple[int, ...], ...]], timings: bytes
) -> tuple[bytes, bytes]:
    """Build an engine for the GPU at hand from an ONNX file; return (plan, timing cache).

    `shapes` maps each input to its smallest, tuned and largest shape. `timings` is the timing cache of an earlier
    build, empty for none. Raises EngineBuildError with the builder's words.
    """
    with _quiet_stdout():
        logger, builder, network, parser = _parse(trt, graph)
        config = builder.create_builder_config()
        # On by default, it rounds fp32 products to 10 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        for name, (smallest, tuned, largest) in shapes.items():
            profile.set_shape(name, smallest, tuned, largest)
        if config.add_optimization_profile(profile) < 0:
            raise EngineBuildError(f"the profile {dict(shapes)} does not fit the graph: {logger.last()}")
        config.set_timing_cache(config.create_timing_cache(timings), ignore_mismatch=False)
        plan = builder.build_serialized_network(network, config)
        # The network borrows the weights from its parser, which lives until here.
        del parser
        if plan is None:
            raise EngineBuildError(f"no engine was built: {logger.last()}")
        return bytes(plan), bytes(config.get_timing_cache().serialize())


def _parse(trt: Any, graph: Path) -> tuple[Any, Any, Any, Any]:
    """Parse an ONNX file: (logger, builder, network, parser); raises EngineBuildError with the parser's words."""
    logger = _logger(trt)
    try:
        builder = trt.Builder(logger)
    except Exception as error:
        # The bindings raise types of their own where there is no driver.
        raise UnavailableError(f"TensorRT cannot start here: {logger.last() or error}") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        problems = (parser.get_error(number) for number in range(parser.num_errors))
        reasons = "; ".join(f"{problem.node_name() or 'graph'}: {problem.desc()}" for problem in problems)
        raise EngineBuildError(f"TensorRT {trt.__version__} does not parse {graph.name}: {reasons}")
    # Triton places no items.
    outputs = [network.get_output(number) for number in range(network.num_outputs)]
    for other in outputs:
        if other.name != "embedding":
            network.unmark_output(other)
    return logger, builder, network, parser


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time only
        """Keeps the last errors for the message of an exception; everything else is dropped."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors = [*self.errors, text][-_KEPT_MESSAGES:]

        def last(self) -> str:
            return "; ".join(self.errors)

    return Logger()


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send what native code prints to standard output to standard error: ours may be read by a program."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def first_gpu() -> Gpu:
    """Describe device 0; raises UnavailableError with CUDA's own reason if there is none."""
    cudart = _cudart()
    if _done(cudart, cudart.cudaGetDeviceCount()) < 1:
        raise UnavailableError("no CUDA device on this machine")
    found = _done(cudart, cudart.cudaGetDeviceProperties(0))
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return Gpu(name.rstrip("\0"), f"{found.major}.{found.minor}")


@contextmanager
def plan_embed(trt: Any, plan: bytes) -> Iterator[Embed]:
    """Yield a function that runs an engine on device 0; raises UnavailableError if it does not load there."""
    cudart = _cudart()
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UnavailableError("the engine does not load on this GPU")
    context = engine.create_execution_context()
    stream = _done(cudart, cudart.cudaStreamCreate())

    def embed(
        pixels: NDArray[np.uint8], token_ids: NDArray[np.int64], token_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        kinds = cudart.cudaMemcpyKind
        inputs = {"pixels": pixels, "token_ids": token_ids, "token_mask": token_mask}
        with _device_memory(cudart) as allocate:
            for name, array in inputs.items():
                # The name is rebound so that the host copy outlives the asynchronous transfer.
                inputs[name] = array = np.ascontiguousarray(array)
                context.set_input_shape(name, array.shape)
                address = allocate(array.nbytes)
                context.set_tensor_address(name, address)
                copy = (address, array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice, stream)
                _done(cudart, cudart.cudaMemcpyAsync(*copy))
            embedding = np.empty(tuple(context.get_tensor_shape("embedding")), np.float32)
            address = allocate(embedding.nbytes)
            context.set_tensor_address("embedding", address)
            if not context.execute_async_v3(stream):
                raise UnavailableError(f"the engine refused a batch of {len(pixels)}")
            copy = (embedding.ctypes.data, address, embedding.nbytes, kinds.cudaMemcpyDeviceToHost, stream)
            _done(cudart, cudart.cudaMemcpyAsync(*copy))
            _done(cudart, cudart.cudaStreamSynchronize(stream))
        return embedding

    try:
        yield embed
    finally:
        cudart.cudaStreamDestroy(stream)


@contextmanager
def _device_memory(cudart: Any) -> Iterator[Any]:
    taken: list[int] = []

    def allocate(size: int) -> int:
        taken.append(int(_done(cudart, cudart.cudaMalloc(max(size, 1)))))
        return taken[-1]

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
    return imported("cuda.bindings.runtime", "finding the GPU needs the package cuda-bindings", "tensorrt")
