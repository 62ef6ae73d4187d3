from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from attributary import kernels
from attributary.errors import InvalidArgumentError
from attributary.kernels import dispatch

WITHOUT_EXTENSION = """
import sys, warnings
sys.modules["attributary.kernels._native"] = None
import numpy as np
from attributary import kernels
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        kernels.resize_crop(np.zeros((9, 9, 3), np.uint8), 4)
assert [w.category for w in caught] == [kernels.KernelsFallbackWarning], caught
assert "times slower" in str(caught[0].message), caught[0].message
info = kernels.info()
assert info.isa == "numpy" and info.available == ("numpy",) and info.reason, info
print("fell back")
"""


def test_the_extension_is_built() -> None:
    """Every other test of the compiled paths would quietly pass on NumPy alone."""
    assert dispatch.native()[0] is not None, dispatch.native()[1]


def test_an_extension_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calibration has other columns: every answer would be refused, or wrong."""
    module, _ = dispatch.native()
    assert module is not None
    monkeypatch.setattr(module, "calibration_columns", 7)
    dispatch.native.cache_clear()
    try:
        assert dispatch.native() == (None, "it was built from other sources than these; build it again")
    finally:
        monkeypatch.undo()
        dispatch.native.cache_clear()
    assert dispatch.native()[0] is module


def test_info_names_the_best_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    info = kernels.info()
    assert info.isa == info.available[-1]
    assert not info.forced
    assert info.reason == ""


def test_the_variable_forces_a_path(path: str) -> None:
    info = kernels.info()
    assert info.isa == path
    assert info.forced


@pytest.mark.parametrize("name", ["sse9", "AVX2", "0"])
def test_an_unknown_path_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, name)
    with pytest.raises(InvalidArgumentError, match=r"ATTRIBUTARY_KERNELS.*cannot be had here"):
        kernels.resize_crop(np.zeros((9, 9, 3), np.uint8), 4)


def test_falls_back_with_one_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTENSION], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fell back"


def test_kernels_never_import_torch() -> None:
    code = "import sys, attributary.kernels; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
