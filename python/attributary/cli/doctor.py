"""`attributary doctor`: what is installed here, which paths are taken, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import click

from attributary.plain import json_line, plain

from .options import Json, declared

# Extra -> the module that shows it is there, and what it is for.
_EXTRAS = {
    "http": ("uvicorn", "HTTP, JSON and the page beside gRPC"),
    "triton": ("tritonclient", "serving on NVIDIA Triton"),
    "milvus": ("pymilvus", "an index past one machine"),
    "ray": ("ray", "scoring logs on many machines"),
    "receipts": ("cryptography", "signed answers"),
    "pdf": ("reportlab", "payout statements as PDF"),
    "c2pa": ("c2pa", "Content Credentials in pictures"),
    "otel": ("opentelemetry.sdk", "traces"),
    "notebook": ("matplotlib", "Answer.plot() and .to_pandas()"),
    "tensorrt": ("cuda", "building TensorRT engines"),
}
_PROGRAMS = {
    "tritonserver": "see docs/triton.md",
    "nvidia-smi": "no NVIDIA driver: everything runs on CPUs",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked for."""

    what: str
    found: bool
    told: str  # version or path; else how to get it


@click.command("doctor")
@declared
def doctor_command(as_json: Json = False) -> None:
    """Say what is installed, which paths are active, what is missing and how to get it. Always ends with status 0."""
    findings = [*_needed(), *_extras(), *_programs()]
    if as_json:
        click.echo(json_line([asdict(finding) for finding in findings]))
        return
    for finding in findings:
        click.echo(f"{'ok' if finding.found else '--':4}{finding.what:22}{plain(finding.told)}")


def _needed() -> list[Finding]:
    return [
        Finding("attributary", True, f"{version('attributary')}, Python {platform.python_version()}"),
        Finding("machine", True, f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores to use"),
        _kernels(),
        _onnxruntime(),
        _package("faiss-cpu", "faiss", "the index: pip install faiss-cpu"),
    ]


def _kernels() -> Finding:
    from attributary import kernels
    from attributary.kernels.dispatch import SLOWER

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = kernels.info()
    told = f"{info.isa}{' (forced)' if info.forced else ''}; can be had here: {', '.join(info.available)}"
    if info.isa == "numpy":
        told = f"NumPy in place of compiled ones ({SLOWER}){': ' + info.reason if info.reason else ''}"
    return Finding("kernels", info.isa != "numpy", told)


def _onnxruntime() -> Finding:
    try:
        import onnxruntime
    except ImportError as error:
        return Finding("onnxruntime", False, f"{error}: pip install onnxruntime")
    providers = ", ".join(
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )
    return Finding("onnxruntime", True, f"{onnxruntime.__version__}; {providers}")


def _package(name: str, module: str, otherwise: str) -> Finding:
    if not _is_there(module):
        return Finding(name, False, otherwise)
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, True, "installed")


def _extras() -> list[Finding]:
    found = [
        Finding(
            f"extra {extra}",
            _is_there(module),
            use if _is_there(module) else f"{use}: pip install 'attributary[{extra}]'",
        )
        for extra, (module, use) in _EXTRAS.items()
    ]
    train = "training teachers and students: see docs/own-generator.md"
    return [*found, _package("attributary-train", "attributary_train", train)]


def _programs() -> list[Finding]:
    found = [(name, shutil.which(name), otherwise) for name, otherwise in _PROGRAMS.items()]
    return [Finding(name, path is not None, path or otherwise) for name, path, otherwise in found]


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
