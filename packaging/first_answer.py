"""From wheels to the first answer in an environment that has nothing and finds no compiler: first_answer.py [--json].

Builds the compiled wheel and `attributary-demo`, makes the wheel a manylinux one where auditwheel and patchelf can be
had, installs both into an empty environment, and runs `attributary demo`, then `attributary serve --ui`, with no
compiler on PATH. Told: seconds of each step, and what the page and `curl` are answered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path
from time import monotonic
from typing import Any

from build_compiled import build

ROOT = Path(__file__).resolve().parents[1]
_READY_S = 120


def main() -> int:
    """Do it; 1 if anything failed."""
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        wheels = _wheels(place / "wheels", told)
        python = _empty(place / "empty", wheels, told)
        _demo(python.parent, place, told)
        _page(python.parent, place, told)
    sys.stdout.write(json.dumps(told, indent=None if "--json" in sys.argv else 1) + "\n")
    return 0


def _timed(told: dict[str, Any], name: str, command: list[str], **how: Any) -> None:
    started = monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=1_800, **how)
    told[name + "_s"] = round(monotonic() - started, 2)


def _wheels(out: Path, told: dict[str, Any]) -> list[Path]:
    started = monotonic()
    compiled = build(out)
    told["compile_s"] = round(monotonic() - started, 2)
    _timed(told, "demo_wheel", [sys.executable, str(ROOT / "packaging" / "build_small.py"), "demo", str(out)])
    [shown] = out.glob("attributary_demo-*.whl")
    told["wheels"] = {wheel.name: wheel.stat().st_size for wheel in (compiled, shown)}
    return [compiled, shown]


def _empty(place: Path, wheels: list[Path], told: dict[str, Any]) -> Path:
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    compiled, shown = wheels
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--only-binary",
        ":all:",
        "-c",
        str(ROOT / "constraints.txt"),
    ]
    _timed(told, "install", [*command, f"{compiled}[ui]", str(shown)], env=_nothing(python.parent))
    return python


def _nothing(programs: Path) -> dict[str, str]:
    """An environment without a compiler; only how packages are fetched is kept."""
    kept = {
        name: value for name, value in os.environ.items() if name.lower().startswith(("pip_", "http", "ssl_"))
    }
    return {**kept, "PATH": str(programs), "HOME": os.environ.get("HOME", "/")}


def _demo(programs: Path, place: Path, told: dict[str, Any]) -> None:
    _timed(told, "demo", [str(programs / "attributary"), "demo"], cwd=place, env=_nothing(programs))
    report = json.loads((place / "attributary-demo" / "report.json").read_text())
    told["demo_answers"] = len(report["queries"])


def _page(programs: Path, place: Path, told: dict[str, Any]) -> None:
    started = monotonic()
    bundle = str(place / "attributary-demo" / "bundle")
    command = [str(programs / "attributary"), "serve", bundle, "--ui", "--http-port", "0", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--metrics-port", "-1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=_nothing(programs),
    )  # fmt: skip
    try:
        assert server.stdout is not None
        address = f"http://127.0.0.1:{json.loads(server.stdout.readline())['http_port']}"
        with urllib.request.urlopen(address, timeout=_READY_S) as page:
            assert b"<title>Attributary</title>" in page.read()
        picture = next((ROOT / "models" / "demo-queries").glob("test-*.png")).read_bytes()
        for kind in ("application/json", "application/pdf"):
            with urllib.request.urlopen(_asking(address, picture, kind), timeout=_READY_S) as answer:
                assert answer.status == 200 and answer.headers["content-type"] == kind
            if kind == "application/json":
                told["serve_to_first_answer_s"] = round(monotonic() - started, 2)
    finally:
        server.terminate()
        server.communicate(timeout=30)


def _asking(address: str, picture: bytes, kind: str) -> urllib.request.Request:
    head = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    return urllib.request.Request(
        f"{address}/v1/attribute", head + picture + b"\r\n--edge--\r\n",
        {"Content-Type": "multipart/form-data; boundary=edge", "Accept": kind},
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
