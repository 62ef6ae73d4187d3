"""The C++ tests under sanitizers, and the instruction counts: minutes of work, run with -m slow."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    if "need doctest" in done.stderr:
        pytest.skip("no header of doctest (Debian: doctest-dev)")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_cpp_tests_and_fuzzer_under_sanitizers(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on the PATH")
    flags = [f"-DATTRIBUTARY_{name}" for name in ("TESTS=ON", "SANITIZE=ON", "PYTHON=OFF")]
    run("cmake", "-S", str(ROOT), "-B", str(tmp_path), *flags, f"-DPython_EXECUTABLE={sys.executable}")
    run("cmake", "--build", str(tmp_path), "--target", "kernels_test", "preprocess_fuzz", "-j2")
    assert "0 failed" in run(str(tmp_path / "kernels" / "kernels_test"), "--no-colors")
    assert "no difference" in run(str(tmp_path / "kernels" / "preprocess_fuzz"), "3000", "11")


def test_what_the_triton_backend_reads_is_fuzzed_without_a_server(tmp_path: Path) -> None:
    compiler, includes = (
        shutil.which("g++") or shutil.which("clang++"),
        Path("/usr/include/nlohmann/json.hpp"),
    )
    if compiler is None or not includes.is_file():
        pytest.skip("no C++ compiler, or no header of nlohmann/json (Debian: nlohmann-json3-dev)")
    folder, program = ROOT / "kernels" / "triton_faiss", str(tmp_path / "fuzz")
    sources = [str(folder / f"{name}.cpp") for name in ("request_fuzz", "request", "settings")]
    flags = ["-std=c++17", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    run(compiler, *flags, "-I", str(ROOT / "kernels"), *sources, "-o", program)
    assert "each read or refused" in run(program, "30000", "7")


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", ["preprocess/resize_cuda.cu", "rescore/rank_cuda.cu"])
def test_nvcc_compiles_the_cuda_files(tmp_path: Path, source: str, architecture: str) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on the PATH")
    kernels = ROOT / "kernels"
    flags = [
        "-O3",
        "-std=c++17",
        f"-arch={architecture}",
        "-cubin",
        "-I",
        str(kernels),
        "-Werror",
        "all-warnings",
    ]
    cubin = tmp_path / "kernel.cubin"
    run(nvcc, *flags, "-o", str(cubin), str(kernels / source))
    assert cubin.stat().st_size > 0


def load_benchmark(name: str) -> ModuleType:
    folder = ROOT / "benchmarks"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(folder))


def test_instruction_counts_have_not_grown() -> None:
    counter = load_benchmark("kernels_instructions")
    stored = json.loads(counter.STORED.read_text())
    if stored["compiler"] != counter.compiler():
        pytest.skip(f"counts were stored with {stored['compiler']}, not {counter.compiler()}")
    try:
        rows = counter.count()
    except counter.MissingToolError as missing:
        pytest.skip(str(missing))
    assert counter.compare(rows, stored) == []


def test_a_grown_count_is_seen() -> None:
    counter = load_benchmark("kernels_instructions")
    stored = {"tolerance": 0.03, "results": [{"kernel": "rescore", "path": "avx2", "instructions": 100}]}
    assert counter.compare([{"kernel": "rescore", "path": "avx2", "instructions": 103}], stored) == []
    assert len(counter.compare([{"kernel": "rescore", "path": "avx2", "instructions": 104}], stored)) == 1
