"""Instructions that the kernels execute for a fixed piece of work, counted by callgrind: a regression check that is
not a timer.

    python benchmarks/kernels_instructions.py [--json] [--check | --update]

Preprocess: 512 x 512 to 224. Rescore: R = 2,000, D = 256. One call = two calls less one, so that set-up and the
building of tables do not count. Valgrind has no AVX-512, so that the portable and the AVX2 paths are counted.
`--check` compares with benchmarks/results/kernels_instructions.json and ends with 1 where a count has grown by more
than its tolerance; `--update` writes that file. Counts depend on the compiler, which is recorded.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, aim, arguments, emit

STORED = RESULTS / "kernels_instructions.json"
TOLERANCE = 0.03
WORK = ("preprocess", "rescore")
PATHS = ("portable", "avx2")


class MissingToolError(Exception):
    """A program that the count needs is not on this machine."""


def build(folder: Path) -> Path:
    """Build the counted program in `folder`; return its path."""
    for tool in ("cmake", "valgrind"):
        if shutil.which(tool) is None:
            raise MissingToolError(f"{tool} is not on the PATH")
    flags = ["-DATTRIBUTARY_TESTS=ON", "-DATTRIBUTARY_PYTHON=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
    commands = (
        ["cmake", "-S", str(ROOT), "-B", str(folder), *flags],
        ["cmake", "--build", str(folder), "--target", "kernels_counted", "-j2"],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if "need doctest" in done.stderr:
            raise MissingToolError("the header of doctest is not installed (Debian: doctest-dev)")
        if done.returncode != 0:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return folder / "kernels" / "kernels_counted"


def instructions(program: Path, work: str, path: str, repeats: int) -> int:
    """Return how many instructions the whole program executes for `repeats` calls."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run([*command, str(program), work, path, str(repeats)], capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"callgrind failed on {work} {path} ({done.returncode}):\n{done.stderr[-2000:]}")
    return int(found.group(1))


def count() -> list[dict[str, Any]]:
    """Return a row for every kernel and path: instructions of one warm call."""
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        rows = []
        for work in WORK:
            for path in PATHS:
                calls = instructions(program, work, path, 2) - instructions(program, work, path, 1)
                rows.append({"kernel": work, "path": path, "instructions": calls})
    return rows


def compiler() -> str:
    """Return the C++ compiler's own name and version."""
    return subprocess.run(["c++", "--version"], capture_output=True, text=True).stdout.splitlines()[0]


def compare(rows: list[dict[str, Any]], stored: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that have grown by more than the tolerance, each with what was stored."""
    before = {(row["kernel"], row["path"]): row["instructions"] for row in stored["results"]}
    limit = 1 + stored["tolerance"]
    return [
        row | {"stored": before[row["kernel"], row["path"]]}
        for row in rows
        if row["instructions"] > before[row["kernel"], row["path"]] * limit
    ]


def main() -> int:
    parser = arguments("Count the instructions of the kernels with callgrind.")
    parser.add_argument("--check", action="store_true", help="end with 1 where a count has grown")
    parser.add_argument("--update", action="store_true", help="store the counts found now")
    options = parser.parse_args()
    try:
        rows = count()
    except MissingToolError as missing:
        print(f"cannot count: {missing}", file=sys.stderr)
        return 2
    if options.update:
        stored = {"compiler": compiler(), "tolerance": TOLERANCE, "results": rows}
        STORED.write_text(json.dumps(stored, indent=2) + "\n")
    stored = json.loads(STORED.read_text())
    grown = compare(rows, stored)
    limit = 100 * stored["tolerance"]
    aims = [aim("kernels whose instruction count has grown", len(grown), 0, f"above {limit:g} %", not grown)]
    config = {"compiler": compiler(), "stored with": stored["compiler"], "tolerance": stored["tolerance"]}
    emit("kernels_instructions", config, rows, aims, options.json, save=False)
    return 1 if options.check and grown else 0


if __name__ == "__main__":
    sys.exit(main())
