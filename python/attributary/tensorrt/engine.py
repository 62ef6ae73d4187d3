"""A TensorRT plan of a bundle's encoder: graph checked on the CPU, built, checked on the GPU, recorded.

TensorRT and cuda-bindings are imported when they are needed; without one of them, or without a GPU, callers get an
UnavailableError that says what is missing.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.bundle import Bundle
from attributary.bundle.files import sha256, write_whole
from attributary.errors import AttributaryError, BundleError, InvalidArgumentError, UnavailableError

from .graph import Embed, Profile, Request, hold_to_golden, write_graph

ENGINES = "engines.json"
SCHEMA_VERSION = 2
_KEPT_MESSAGES = 8


class EngineBuildError(AttributaryError):
    """The builder refused a graph or gave no engine; the text holds its reasons."""


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """One engine of `engines.json`. Cosines are the smallest over the golden queries."""

    file: str
    sha256: str  # hex
    bytes: int
    tensorrt: str  # the release that built it, the only one that loads it
    precision: str
    gpu: str  # "NVIDIA H100 80GB HBM3"
    compute_capability: str  # "9.0"
    profile: Profile
    build_s: float
    graph_cosine: float  # the graph at this precision, run by ONNX Runtime on the CPU
    engine_cosine: float  # the engine itself, on its GPU

    def summary(self) -> str:
        """One line for people."""
        return (
            f"{self.file}: {self.bytes} bytes in {self.build_s} s for {self.gpu}; smallest cosine to the golden "
            f"queries {self.engine_cosine:.5f}, of its graph on the CPU {self.graph_cosine:.5f}"
        )


@dataclass(frozen=True, slots=True)
class Engines:
    """`engines.json`: the engines of one encoder in a directory."""

    bundle_id: str  # whose golden queries they were held to
    encoder_digest: str  # SHA-256 of the fp32 ONNX file, hex
    engines: tuple[EngineRecord, ...] = ()

    @classmethod
    def read(cls, directory: Path) -> Engines:
        """Read `engines.json`; raises BundleError naming it."""
        try:
            raw = json.loads((directory / ENGINES).read_text(encoding="utf-8"))
            if raw["schema_version"] != SCHEMA_VERSION:
                raise BundleError(
                    ENGINES,
                    f"schema_version is {raw['schema_version']!r}, this build reads {SCHEMA_VERSION}; "
                    "build into another directory",
                )
            records = [
                EngineRecord(**{**entry, "profile": Profile(**entry["profile"])}) for entry in raw["engines"]
            ]
            return cls(str(raw["bundle_id"]), str(raw["encoder_digest"]), tuple(records))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(ENGINES, f"cannot be read: {error!r}") from error

    def add(self, record: EngineRecord, directory: Path) -> None:
        """Write `engines.json` with one engine more, in the place of the one of the same file name, if any."""
        others = [entry for entry in self.engines if entry.file != record.file]
        changed = {**asdict(self), "engines": [asdict(entry) for entry in (*others, record)]}
        text = json.dumps({"schema_version": SCHEMA_VERSION, **changed}, indent=2, ensure_ascii=False)
        write_whole(directory / ENGINES, text.encode() + b"\n")


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a build would start from, found without a GPU."""

    encoder: str
    encoder_digest: str
    precision: str
    profile: Profile
    graph_cosine: float
    graph_bytes: int  # of the ONNX file at this precision
    missing: str  # why no engine can be built on this machine, or empty

    def summary(self) -> str:
        """One or two lines for people."""
        return (
            f"{self.encoder} {self.encoder_digest[:12]}: {self.precision} graph of {self.graph_bytes} bytes, smallest "
            f"cosine to the golden queries {self.graph_cosine:.5f} (CPU)"
        ) + (f"\nno engine can be built here: {self.missing}" if self.missing else "")


class Gpu(NamedTuple):
    """A CUDA device: its name and compute capability, "9.0"."""

    name: str
    capability: str


def build_engine(request: Request) -> EngineRecord:
    """Build one engine, hold it to the golden queries, and record it in `engines.json` of the output directory.

    Raises BundleError for a bundle or a precision that fails, UnavailableError for a missing package or GPU,
    EngineBuildError for what the builder refuses, InvalidArgumentError for a wrong request.
    """
    bundle = _open(request)
    known = _engines_of(request.out, bundle)
    # A missing package or GPU is found before minutes of work.
    trt, gpu = load_tensorrt(), first_gpu()
    request.out.mkdir(parents=True, exist_ok=True)
    entry, precision, max_batch = bundle.manifest.encoder, request.precision, request.profile.max_batch
    where = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    path = request.out / f"encoder-{precision}-{trt.__version__}-{where}.plan"
    cache = request.out / f"timing-{trt.__version__}-{where}.cache"
    timings = cache.read_bytes() if cache.is_file() else b""
    with tempfile.TemporaryDirectory(prefix=".graph-", dir=request.out) as scratch:
        graph, graph_cosine = write_graph(bundle, precision, Path(scratch), max_batch)
        start = time.monotonic()
        shapes = request.profile.shapes(entry.image_size, entry.max_tokens)
        plan, timings = build_plan(trt, graph, shapes, timings)
        spent = time.monotonic() - start
    with plan_embed(trt, plan) as embed:
        cosine = hold_to_golden(embed, bundle.golden, precision, path.name, max_batch)
    write_whole(cache, timings)
    write_whole(path, plan)
    record = EngineRecord(
        file=path.name,
        sha256=sha256(path),
        bytes=len(plan),
        tensorrt=trt.__version__,
        precision=precision,
        gpu=gpu.name,
        compute_capability=gpu.capability,
        profile=request.profile,
        build_s=round(spent, 2),
        graph_cosine=graph_cosine,
        engine_cosine=cosine,
    )
    known.add(record, request.out)
    return record


def dry_run(request: Request) -> DryRun:
    """Check everything that needs no GPU: the bundle, and the graph at its precision.

    Writes nothing into the output directory. Raises as `build_engine` does, but not for a missing GPU or package:
    these are the answer's `missing`.
    """
    bundle = _open(request)
    _engines_of(request.out, bundle)
    entry = bundle.manifest.encoder
    with tempfile.TemporaryDirectory(prefix="attributary-graph-") as scratch:
        graph, cosine = write_graph(bundle, request.precision, Path(scratch), request.profile.max_batch)
        size = graph.stat().st_size
    missing = ""
    try:
        load_tensorrt()
        first_gpu()
    except UnavailableError as error:
        missing = str(error)
    return DryRun(entry.name, entry.digest, request.precision, request.profile, cosine, size, missing)


def check_plan(plan: Path, encoder_digest: str, max_batch: int) -> None:
    """Refuse a plan that the `engines.json` beside it says is not for this encoder, this size of batch, or was changed.

    A plan without a record, as of trtexec, passes: a gateway holds what it answers to the golden queries. Raises
    InvalidArgumentError, BundleError for an `engines.json` that cannot be read.
    """
    if not plan.is_file():
        raise InvalidArgumentError("plan", f"{plan} is not a file")
    if not (plan.parent / ENGINES).exists():
        return
    known = Engines.read(plan.parent)
    for record in known.engines:
        if record.file != plan.name:
            continue
        if known.encoder_digest != encoder_digest:
            problem = f"of encoder {known.encoder_digest[:12]}..., the bundle holds {encoder_digest[:12]}..."
        elif record.profile.max_batch < max_batch:
            problem = f"for batches up to {record.profile.max_batch}; max_batch is {max_batch}"
        elif sha256(plan) != record.sha256:
            problem = f"not the file that {ENGINES} records; it was changed"
        else:
            return
        raise InvalidArgumentError("plan", f"{plan.name} is {problem}")


def _open(request: Request) -> Bundle:
    bundle = Bundle.open(request.bundle)
    if request.out.resolve().is_relative_to(bundle.directory.resolve()):
        raise InvalidArgumentError(
            "out", "must not lie inside the bundle, which is immutable; put it beside it"
        )
    if request.out.exists() and not request.out.is_dir():
        raise InvalidArgumentError("out", f"{request.out} is not a directory")
    return bundle


def _engines_of(directory: Path, bundle: Bundle) -> Engines:
    """Return a directory's engines, none if it is new; raises BundleError if they are another encoder's."""
    manifest = bundle.manifest
    found = Engines.read(directory) if (directory / ENGINES).exists() else None
    if found is not None and found.encoder_digest != manifest.encoder.digest:
        raise BundleError(
            ENGINES,
            f"belongs to encoder {found.encoder_digest[:12]}..., the bundle holds "
            f"{manifest.encoder.digest[:12]}...; choose another directory",
        )
    return Engines(manifest.bundle_id, manifest.encoder.digest, found.engines if found else ())


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
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise UnavailableError(
            f"finding the GPU needs the package cuda-bindings ({error}); pip install 'attributary[tensorrt]'"
        ) from None
