from __future__ import annotations

import pytest

from attributary.kernels import dispatch

PATHS = ("numpy", "portable", "avx2", "avx512")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force each path in turn; those that this machine or build lacks are skipped by name."""
    if request.param not in dispatch.available():
        pytest.skip(f"no {request.param} here: {dispatch.native()[1] or 'the processor lacks it'}")
    monkeypatch.setenv(dispatch.VARIABLE, request.param)
    return str(request.param)
