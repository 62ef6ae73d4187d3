"""What is asked of a build, and what is recorded of its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from attributary.errors import AttributaryError, InvalidArgumentError

Runtime = Literal["rtx", "tensorrt", "ort-tensorrt", "ort-cuda"]
Precision = Literal["fp32", "fp16", "int8"]
RUNTIMES: tuple[Runtime, ...] = ("rtx", "tensorrt", "ort-tensorrt", "ort-cuda")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

# What TensorRT for RTX builds for when nothing is named: A100, A10 and RTX 30, L4/L40 and RTX 40, RTX 50.
RTX_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")


class EngineBuildError(AttributaryError):
    """The builder refused a graph or gave no engine; the text holds what it said."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes that an engine takes: smallest, the one it is tuned for, largest. Tokens end at the encoder's limit."""

    min_batch: int = 1
    opt_batch: int = 8
    max_batch: int = 32
    opt_tokens: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise InvalidArgumentError(
                "opt_batch",
                f"must lie between min_batch {self.min_batch} (at least 1) and max_batch {self.max_batch}, "
                f"got {self.opt_batch}",
            )
        if self.opt_tokens < 1:
            raise InvalidArgumentError("opt_tokens", f"must be at least 1, got {self.opt_tokens}")

    def shapes(self, image_size: int, max_tokens: int) -> Mapping[str, tuple[tuple[int, ...], ...]]:
        """Return input name -> (smallest, tuned, largest) shape."""
        pixels = tuple(
            (batch, image_size, image_size, 3) for batch in (self.min_batch, self.opt_batch, self.max_batch)
        )
        tokens = (
            (self.min_batch, 1),
            (self.opt_batch, min(self.opt_tokens, max_tokens)),
            (self.max_batch, max_tokens),
        )
        return {"pixels": pixels, "token_ids": tokens, "token_mask": tokens}


@dataclass(frozen=True, slots=True)
class Request:
    """One engine to build from the encoder of the bundle directory `bundle` into the directory `out`."""

    bundle: Path
    out: Path
    runtime: Runtime = "rtx"
    precision: Precision = "fp16"
    compute_capabilities: tuple[str, ...] = ()  # rtx only; empty stands for RTX_CAPABILITIES
    profile: Profile = field(default_factory=Profile)
    calibration: Path | None = None  # int8 only: directory of pictures; None takes the golden queries

    def __post_init__(self) -> None:
        for name, value, known in (
            ("runtime", self.runtime, RUNTIMES),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise InvalidArgumentError(name, f"must be one of {', '.join(known)}, got {value!r}")
        if self.compute_capabilities and self.runtime != "rtx":
            raise InvalidArgumentError(
                "compute_capability",
                f"belongs to the runtime rtx; {self.runtime} builds for the GPU that it runs on",
            )
        if self.calibration is not None and self.precision != "int8":
            raise InvalidArgumentError("calibration", f"belongs to int8, not to {self.precision}")


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """One engine of `engines.json`. Digests are SHA-256 in hex, cosines are the smallest over the golden queries."""

    file: str
    sha256: str
    bytes: int
    runtime: str
    runtime_version: str
    precision: str
    gpu: str | None  # the GPU it was built on; None: built without one
    compute_capabilities: tuple[str, ...]
    profile: Profile
    build_s: float
    graph_cosine: float  # the graph at this precision, run by ONNX Runtime on the CPU
    engine_cosine: float | None  # the engine itself on its GPU; None: it has never run
    companions: Mapping[str, str] = field(default_factory=dict)  # timing and engine caches: name -> SHA-256


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a build would start from, found without a GPU."""

    encoder: str
    encoder_digest: str
    image_size: int
    max_tokens: int
    dim: int
    profile: Profile
    runtime: str
    precision: str
    graph_cosine: float
    graph_bytes: int  # of the ONNX file at this precision
    parser: str | None  # "tensorrt_rtx 1.7.1.116"; None: no parser on this machine
    layers: int | None  # of the parsed network
    reason: str  # why no parser was asked, or empty
