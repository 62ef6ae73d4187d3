"""TensorRT plans of a bundle's encoder, for Triton's TensorRT backend: checked on the CPU, built and checked on a GPU.

Networks are built strongly typed: the precision is the graph's, no builder flag. So the encoder's graph is rewritten
here, and the numbers that an engine will use are held to the golden queries before any engine is built. What is built
is recorded in `engines.json` beside it.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from attributary.bundle.bundle import Bundle
from attributary.bundle.files import sha256, write_whole
from attributary.bundle.golden import GOLDEN, Golden
from attributary.encoder.onnx import OnnxEncoder
from attributary.errors import BundleError, InvalidArgumentError, UnavailableError, check_range, imported

from .tensorrt import Embed, build_plan, first_gpu, load_tensorrt, plan_embed

ENGINES = "engines.json"
SCHEMA_VERSION = 2
Precision = Literal["fp32", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
# fp32 as in attribution/golden.py, so that a server that checks again comes to the same answer.
MIN_COSINE: dict[Precision, float] = {"fp32": 0.9999, "fp16": 0.999}


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes that an engine takes: batches from 1, prompts up to the encoder's limit, and what it is tuned for."""

    opt_batch: Annotated[int, "batch it is tuned for"] = 8
    max_batch: Annotated[int, ""] = 32
    opt_tokens: Annotated[int, "prompt tuned for"] = 16

    def __post_init__(self) -> None:
        if not 1 <= self.opt_batch <= self.max_batch:
            raise InvalidArgumentError(
                "opt_batch", f"must lie between 1 and max_batch {self.max_batch}, got {self.opt_batch}"
            )
        check_range("opt_tokens", self.opt_tokens, 1)

    def shapes(self, image_size: int, max_tokens: int) -> Mapping[str, tuple[tuple[int, ...], ...]]:
        """Return input name -> (smallest, tuned, largest) shape."""
        pixels = tuple((batch, image_size, image_size, 3) for batch in (1, self.opt_batch, self.max_batch))
        tokens = ((1, 1), (self.opt_batch, min(self.opt_tokens, max_tokens)), (self.max_batch, max_tokens))
        return {"pixels": pixels, "token_ids": tokens, "token_mask": tokens}


@dataclass(frozen=True, slots=True)
class Request:
    """One engine to build from the encoder of the bundle directory `bundle` into the directory `out`."""

    bundle: Annotated[Path, "bundle whose encoder is built"]
    out: Annotated[Path, "directory beside the bundle"]
    precision: Annotated[Precision, ""] = "fp16"
    profile: Profile = field(default_factory=Profile)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InvalidArgumentError(
                "precision", f"must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )


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


def write_graph(
    bundle: Bundle, precision: Precision, folder: Path, max_batch: int = 32
) -> tuple[Path, float]:
    """Return (the encoder's ONNX file at a precision, its smallest cosine to the golden queries on the CPU).

    The file is the bundle's own for fp32, else a new one in `folder` by ONNX Runtime's converter; inputs and output
    keep their types. Raises BundleError for a graph that disagrees, UnavailableError if the package onnx is missing.
    """
    graph = bundle.encoder_path
    # Refuses a file that is no encoder before anything is made of it.
    OnnxEncoder(graph)
    if precision == "fp16":
        need = "fp16 graphs need the package onnx"
        onnx, float16 = (
            imported(name, need, "tensorrt") for name in ("onnx", "onnxruntime.transformers.float16")
        )
        half = float16.convert_float_to_float16(onnx.load(graph), keep_io_types=True)
        graph = folder / "encoder-fp16.onnx"
        onnx.save(half, graph)
    what = f"encoder.onnx ({precision} graph)"
    return graph, hold_to_golden(OnnxEncoder(graph).encode, bundle.golden, precision, what, max_batch)


def hold_to_golden(embed: Embed, golden: Golden, precision: Precision, what: str, max_batch: int) -> float:
    """Embed the golden queries and return the smallest cosine to the expected embeddings.

    They are embedded one by one and then in batches of `max_batch`, since an engine picks other kernels for other
    shapes. Raises BundleError naming `what`.
    """
    wanted = MIN_COSINE[precision]
    worst = 1.0
    for size in {1, min(max_batch, len(golden.pixels))}:
        for start in range(0, len(golden.pixels), size):
            part = slice(start, start + size)
            found = embed(golden.pixels[part], golden.token_ids[part], golden.token_mask[part])
            expected = golden.embeddings[part]
            if found.shape != expected.shape:
                raise BundleError(what, f"gives embeddings {list(found.shape)}, not {list(expected.shape)}")
            cosine = float((found.astype(np.float64) * expected).sum(axis=1).min())
            # NaN compares false with everything; it must not pass as 1.0.
            worst = min(worst, cosine) if np.isfinite(cosine) else -1.0
            if not worst >= wanted:
                raise BundleError(
                    what, f"disagrees with {GOLDEN}: cosine {worst:.5f}, {precision} needs {wanted}"
                )
    return worst
