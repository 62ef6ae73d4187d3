"""From a bundle to a recorded engine: verify, rewrite, check on the CPU, build, check on the GPU, record."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from attributary.bundle.bundle import Bundle
from attributary.bundle.files import sha256
from attributary.encoder.onnx import OnnxEncoder
from attributary.errors import AttributaryError, InvalidArgumentError, UnavailableError

from . import builder, onnx_gpu
from .device import Gpu, first_gpu, plan_runner
from .golden import hold_to_golden, onnx_runner
from .precision import write_graph
from .records import engines_of, verify_engine, write_file
from .types import RTX_CAPABILITIES, DryRun, EngineRecord, Request


class _Made(NamedTuple):
    """An engine that lies in the output directory and is not recorded yet."""

    file: str
    version: str
    gpu: Gpu | None
    targets: tuple[str, ...]
    build_s: float
    cosine: float | None
    companions: tuple[str, ...]


def build_engine(request: Request) -> EngineRecord:
    """Build one engine, hold it to the golden queries, and record it in `engines.json` of the output directory.

    An engine built without its GPU is recorded with `engine_cosine` None: only its graph was checked. Raises
    BundleError for a bundle or a precision that fails, UnavailableError for a missing package or GPU,
    EngineBuildError for what the builder refuses, InvalidArgumentError for a wrong request.
    """
    bundle = Bundle.open(request.bundle)
    _check_output(request, bundle)
    known = engines_of(request.out, bundle.manifest.bundle_id, bundle.manifest.encoder.digest)
    # A missing package or GPU is found before minutes of work.
    make = _RUNTIMES[request.runtime]
    gpu = None if request.runtime == "rtx" else first_gpu()
    if request.runtime in builder.MODULES:
        trt = builder.load(request.runtime)
        if request.runtime == "rtx":
            builder.capabilities(trt, request.compute_capabilities)
    request.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".graph-", dir=request.out) as scratch:
        graph = write_graph(bundle, request.precision, Path(scratch), request.calibration)
        graph_cosine = _check_graph(graph, bundle, request)
        made = make(graph, bundle, request, gpu)
    path = request.out / made.file
    record = EngineRecord(
        file=made.file,
        sha256=sha256(path),
        bytes=path.stat().st_size,
        runtime=request.runtime,
        runtime_version=made.version,
        precision=request.precision,
        gpu=made.gpu.name if made.gpu else None,
        compute_capabilities=made.targets,
        profile=request.profile,
        build_s=round(made.build_s, 2),
        graph_cosine=graph_cosine,
        engine_cosine=made.cosine,
        companions={name: sha256(request.out / name) for name in made.companions},
    )
    verify_engine(request.out, record)
    known.with_engine(record).write(request.out)
    return record


def dry_run(request: Request) -> DryRun:
    """Check everything that needs no GPU: the bundle, the graph at its precision, the parser where there is one.

    Writes nothing into the output directory. Raises as `build_engine` does, but not for a missing GPU or runtime:
    these are the answer's `reason`.
    """
    bundle = Bundle.open(request.bundle)
    _check_output(request, bundle)
    with tempfile.TemporaryDirectory(prefix="attributary-graph-") as scratch:
        graph = write_graph(bundle, request.precision, Path(scratch), request.calibration)
        cosine = _check_graph(graph, bundle, request)
        parser, layers, reason = _parse(graph, request)
        size = graph.stat().st_size
    entry = bundle.manifest.encoder
    return DryRun(
        encoder=entry.name,
        encoder_digest=entry.digest,
        image_size=entry.image_size,
        max_tokens=entry.max_tokens,
        dim=entry.dim,
        profile=request.profile,
        runtime=request.runtime,
        precision=request.precision,
        graph_cosine=cosine,
        graph_bytes=size,
        parser=parser,
        layers=layers,
        reason=reason,
    )


def _check_output(request: Request, bundle: Bundle) -> None:
    if request.out.resolve().is_relative_to(bundle.directory.resolve()):
        raise InvalidArgumentError(
            "out", "must not lie inside the bundle, which is immutable; put it beside it"
        )
    if request.out.exists() and not request.out.is_dir():
        raise InvalidArgumentError("out", f"{request.out} is not a directory")


def _check_graph(graph: Path, bundle: Bundle, request: Request) -> float:
    # Refuses a file that is no encoder before a builder sees it.
    OnnxEncoder(bundle.encoder_path)
    run = onnx_runner(graph, ["CPUExecutionProvider"])
    what = f"encoder.onnx ({request.precision} graph)"
    return hold_to_golden(run, bundle.golden, request.precision, what, request.profile.max_batch)


def _parse(graph: Path, request: Request) -> tuple[str | None, int | None, str]:
    # ONNX Runtime's TensorRT provider parses with TensorRT's own parser.
    runtime = "tensorrt" if request.runtime == "ort-tensorrt" else request.runtime
    if runtime not in builder.MODULES:
        return None, None, f"{runtime} runs the ONNX graph as it is"
    try:
        trt = builder.load(runtime)
        if runtime == "rtx":
            builder.capabilities(trt, request.compute_capabilities or RTX_CAPABILITIES)
        return f"{trt.__name__} {trt.__version__}", builder.parse(trt, graph), ""
    except UnavailableError as error:
        return None, None, str(error)


def _make_rtx(graph: Path, bundle: Bundle, request: Request, _: Gpu | None) -> _Made:
    trt = builder.load("rtx")
    targets = builder.capabilities(trt, request.compute_capabilities or RTX_CAPABILITIES)
    start = time.monotonic()
    built = builder.build(trt, graph, _shapes(bundle, request), targets)
    spent = time.monotonic() - start
    file = _name(request, trt.__version__, "-".join(targets).lower())
    gpu = _gpu_of(targets)
    cosine = None
    if gpu is not None:
        with plan_runner(trt, built.plan) as run:
            cosine = hold_to_golden(run, bundle.golden, request.precision, file, request.profile.max_batch)
    write_file(request.out / file, built.plan)
    return _Made(file, trt.__version__, gpu, targets, spent, cosine, ())


def _make_tensorrt(graph: Path, bundle: Bundle, request: Request, gpu: Gpu | None) -> _Made:
    assert gpu is not None
    trt = builder.load("tensorrt")
    cache = request.out / f"timing-{_slug(gpu.name)}-{trt.__version__}.cache"
    start = time.monotonic()
    known = cache.read_bytes() if cache.is_file() else b""
    built = builder.build(trt, graph, _shapes(bundle, request), timing_cache=known)
    spent = time.monotonic() - start
    file = _name(request, trt.__version__, _slug(gpu.name))
    with plan_runner(trt, built.plan) as run:
        cosine = hold_to_golden(run, bundle.golden, request.precision, file, request.profile.max_batch)
    # The cache grows with every build, so it is no part of an engine's record.
    write_file(cache, built.timing_cache)
    write_file(request.out / file, built.plan)
    return _Made(file, trt.__version__, gpu, (gpu.capability,), spent, cosine, ())


def _make_onnx(graph: Path, bundle: Bundle, request: Request, gpu: Gpu | None) -> _Made:
    import onnxruntime as ort

    assert gpu is not None
    key = f"{request.runtime}-{ort.__version__}-{_slug(gpu.name)}"
    file = f"encoder-{request.precision}-{key}.onnx"
    with tempfile.TemporaryDirectory(prefix=".cache-", dir=request.out) as scratch:
        cache = Path(scratch)
        start = time.monotonic()
        providers = onnx_gpu.providers(request.runtime, request.precision, _shapes(bundle, request), cache)
        run = onnx_runner(graph, providers)
        cosine = hold_to_golden(run, bundle.golden, request.precision, file, request.profile.max_batch)
        spent = time.monotonic() - start
        companions = sorted(path for path in cache.iterdir() if path.is_file())
        for path in companions:
            write_file(request.out / path.name, path.read_bytes())
        write_file(request.out / file, graph.read_bytes())
    names = tuple(path.name for path in companions)
    return _Made(file, ort.__version__, gpu, (gpu.capability,), spent, cosine, names)


_RUNTIMES = {
    "rtx": _make_rtx,
    "tensorrt": _make_tensorrt,
    "ort-tensorrt": _make_onnx,
    "ort-cuda": _make_onnx,
}


def _shapes(bundle: Bundle, request: Request) -> onnx_gpu.Shapes:
    return request.profile.shapes(bundle.manifest.encoder.image_size, bundle.manifest.encoder.max_tokens)


def _gpu_of(targets: tuple[str, ...]) -> Gpu | None:
    """The GPU at hand, if an engine for `targets` can run on it."""
    try:
        gpu = first_gpu()
    except AttributaryError:
        return None
    return gpu if gpu.capability in targets else None


def _name(request: Request, version: str, where: str) -> str:
    return f"encoder-{request.precision}-{request.runtime}-{version}-{where}.plan"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
