"""From a bundle's encoder to an engine for NVIDIA GPUs: TensorRT for RTX, TensorRT, or ONNX Runtime's GPU providers.

Every third-party package is optional and imported when it is needed; without it, or without a GPU where one is
needed, callers get an `UnavailableError` that says what is missing.
"""

from __future__ import annotations

from .build import build_engine, dry_run
from .records import ENGINES, Engines, verify_engine
from .types import DryRun, EngineBuildError, EngineRecord, Profile, Request

__all__ = [
    "ENGINES",
    "DryRun",
    "EngineBuildError",
    "EngineRecord",
    "Engines",
    "Profile",
    "Request",
    "build_engine",
    "dry_run",
    "verify_engine",
]
