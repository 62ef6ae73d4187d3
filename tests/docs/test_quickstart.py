"""docs/quickstart.md, done as it is written: every command and every snippet, in order, by one newcomer."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
STEP = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)


@pytest.fixture
def newcomer(tmp_path):
    """Run a step in the folder of a checkout's models, with this environment's programs; its output."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(kind, text):
        command = ["bash", "-euc", text] if kind == "sh" else [sys.executable, "-c", text]
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200
        )
        assert ran.returncode == 0, text + ran.stderr
        return ran.stdout

    return run


@contextlib.contextmanager
def serving(text, folder):
    """The step that serves, on ports that are free: a function that puts them into other steps' text."""
    words = text.split()[1:]
    command = [
        sys.executable,
        "-m",
        "attributary.cli.main",
        *words[:-1],
        "0",
        "--port",
        "0",
        "--metrics-port",
        "-1",
    ]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        ready = json.loads(process.stdout.readline())
        address = f"127.0.0.1:{ready['port']}"
        yield (
            lambda step: (
                step.replace("127.0.0.1:50051", address)
                .replace(":8080", f":{ready['http_port']}")
                .replace("attributary query", f"attributary query --address {address}")
            )
        )
    finally:
        process.terminate()
        process.communicate(timeout=60)


# The default suite runs its snippet and reads its commands, with those of every page; a dozen processes take longer.
@pytest.mark.slow
def test_the_quickstart_does_what_it_says(newcomer, tmp_path):
    steps = STEP.findall(PAGE.read_text(encoding="utf-8"))
    [place] = [at for at, (_, text) in enumerate(steps) if text.startswith("attributary serve")]
    for kind, text in steps[:place]:
        newcomer(kind, text)
    assert (tmp_path / "attributary-demo" / "contact_sheet.png").is_file()
    with serving(steps[place][1], tmp_path) as local:
        told = [newcomer(kind, local(text)) for kind, text in steps[place + 1 :]]
    asked, program, scored, deleted = told
    assert "Twitter" in asked and '"diffuse_share"' in asked
    assert "nobody in particular" in program
    assert (tmp_path / "runs" / "first" / "report.html").is_file(), scored
    assert "deleted" in deleted.lower()
