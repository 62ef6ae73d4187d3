"""The C++ tests of what knows nothing of Triton."""

from __future__ import annotations

import subprocess
from pathlib import Path


def test_core(core_test: Path) -> None:
    done = subprocess.run([str(core_test), "--no-colors"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "0 failed" in done.stdout
