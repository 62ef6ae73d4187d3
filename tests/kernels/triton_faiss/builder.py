"""Brings the build of the backend up to date, or says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

FOLDER = "build/triton"


class CannotBuildError(Exception):
    """The backend is not built on this machine, for the reason given."""


def build(root: Path) -> Path:
    """Return the build folder after an incremental build.

    The first build takes a minute and is left to `make triton-backend`; a test only brings it up to date, so that an
    old library is never what is tested.
    """
    folder = root / FOLDER
    if shutil.which("cmake") is None:
        raise CannotBuildError("no cmake on the PATH")
    if not (folder / "backends" / "faiss" / "libtriton_faiss.so").is_file():
        raise CannotBuildError(
            "the Triton backend is not built (needs libfaiss-dev); run `make triton-backend`"
        )
    done = subprocess.run(
        ["cmake", "--build", str(folder), "--target", "triton_faiss", "-j", str(os.cpu_count() or 1)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder
