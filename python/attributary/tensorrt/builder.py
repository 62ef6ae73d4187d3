"""TensorRT's builder, for both products: TensorRT for RTX and TensorRT have the same Python interface."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attributary.errors import InvalidArgumentError, UnavailableError

from .types import EngineBuildError

MODULES = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
_HOW = {
    "rtx": "pip install tensorrt-rtx-cu12==1.7.1.116 (NVIDIA's licence applies; see docs/tensorrt.md)",
    "tensorrt": "pip install tensorrt-cu12 on a machine with an NVIDIA GPU (NVIDIA's licence applies)",
}
_KEPT_MESSAGES = 8


@dataclass(frozen=True, slots=True)
class Built:
    """A serialised engine."""

    plan: bytes
    layers: int
    timing_cache: bytes  # empty where no GPU was timed


def load(runtime: str) -> Any:
    """Import the runtime's Python package; raises UnavailableError that says how to get it."""
    try:
        return importlib.import_module(MODULES[runtime])
    except (ImportError, OSError) as error:
        raise UnavailableError(f"{MODULES[runtime]} is not here ({error}); {_HOW[runtime]}") from None


def capabilities(trt: Any, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Check names of compute capabilities ("SM89") against what this release of TensorRT for RTX builds for."""
    known = tuple(name for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
    if unknown := [name for name in asked if name not in known]:
        raise InvalidArgumentError(
            "compute_capability",
            f"{unknown[0]} is no target of {trt.__name__} {trt.__version__}; it builds {', '.join(known)}",
        )
    if len(set(asked)) != len(asked):
        raise InvalidArgumentError("compute_capability", "names one target twice")
    return asked


def parse(trt: Any, graph: Path) -> int:
    """Parse an ONNX file and return the number of layers; raises EngineBuildError with the parser's words."""
    with _quiet_stdout():
        network: Any = _parse(trt, graph)[2]
        return int(network.num_layers)


def build(
    trt: Any,
    graph: Path,
    shapes: Mapping[str, tuple[tuple[int, ...], ...]],
    targets: tuple[str, ...] = (),
    timing_cache: bytes | None = None,
) -> Built:
    """Build an engine from an ONNX file.

    `shapes` maps each input to its smallest, tuned and largest shape. `targets` are compute capabilities, for
    TensorRT for RTX; without them the engine is for the GPU at hand. `timing_cache` is what an earlier build left,
    empty for none; None builds without one. Raises EngineBuildError with the builder's words.
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
        if targets:
            config.num_compute_capabilities = len(targets)
            for place, name in enumerate(targets):
                config.set_compute_capability(getattr(trt.ComputeCapability, name), place)
        if timing_cache is not None:
            config.set_timing_cache(config.create_timing_cache(timing_cache), ignore_mismatch=False)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineBuildError(f"no engine was built: {logger.last()}")
        timings = config.get_timing_cache() if timing_cache is not None else None
        # The network borrows the weights from its parser.
        layers = int(network.num_layers)
        del parser
        return Built(bytes(plan), layers, bytes(timings.serialize()) if timings is not None else b"")


def _parse(trt: Any, graph: Path) -> tuple[Any, Any, Any, Any]:
    logger = _logger(trt)
    try:
        builder = trt.Builder(logger)
    except Exception as error:
        # The bindings raise their own types: TensorRT cannot start without a driver, TensorRT for RTX can.
        raise UnavailableError(f"{trt.__name__} cannot start here: {logger.last() or error}") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        said = "; ".join(
            f"{problem.node_name() or 'graph'}: {problem.desc()}"
            for problem in (parser.get_error(number) for number in range(parser.num_errors))
        )
        raise EngineBuildError(f"{trt.__name__} {trt.__version__} does not parse {graph.name}: {said}")
    return logger, builder, network, parser


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time only
        """Keeps the last errors for the message of an exception; what is no error is noise."""

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
