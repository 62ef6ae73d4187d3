"""Each example asks a real server and reads its refusals, where its language is at hand."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def both(tiny_bundle_dir):
    """Addresses of one server: gRPC's and HTTP's."""
    command = [sys.executable, "-m", "attributary.cli.main", "serve", str(tiny_bundle_dir), "--port", "0"]
    more = ["--metrics-port", "-1", "--http-port", "0"]
    process = subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        ready = json.loads(process.stdout.readline())
        yield f"127.0.0.1:{ready['port']}", f"http://127.0.0.1:{ready['http_port']}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)


def python(both, _folder):
    return [sys.executable, str(EXAMPLES / "python" / "ask.py"), both[0]]


def node(both, folder):
    npm, program = shutil.which("npm"), shutil.which("node")
    if npm is None or program is None:
        pytest.skip("there is no Node here")
    shutil.copytree(
        EXAMPLES / "node", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules")
    )
    got = subprocess.run(
        [npm, "install", "--silent", "--ignore-scripts"],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=200,
    )
    if got.returncode:
        pytest.skip("the packages of the example cannot be fetched here")
    # Not beside the contract any more.
    return ["env", f"PROTO={EXAMPLES.parent / 'proto'}", program, str(folder / "ask.js"), both[0]]


def go(both, folder):
    program = shutil.which("go")
    if program is None:
        pytest.skip("there is no Go here: apt-get install golang-go")
    built = folder / "ask"
    environment = ["env", f"GOCACHE={folder / 'cache'}", "GO111MODULE=off", "CGO_ENABLED=0"]
    subprocess.run(
        [*environment, program, "build", "-o", str(built), str(EXAMPLES / "go" / "main.go")],
        check=True,
        timeout=280,
    )
    return [str(built), both[1]]


@pytest.mark.parametrize("language", [python, pytest.param(node, marks=pytest.mark.network), go])
def test_an_example_asks_and_reads_a_refusal(language, both, tiny_corpus_dir, tmp_path):
    command = language(both, tmp_path)
    picture = str(tiny_corpus_dir / "pictures" / "3.png")

    def run(*arguments):
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60)

    answered = run(picture, "a orange rectangle", "2")
    assert answered.returncode == 0, answered.stderr
    lines = answered.stdout.splitlines()
    assert len(lines) == 3 and lines[0].startswith("1 1003 ") and "Dee a orange rectangle" in lines[0]
    assert lines[2].startswith("nobody in particular")
    refused = run(picture, "", "100000")
    assert refused.returncode == 1
    assert "BadRequest" in refused.stderr and "options.top_k" in refused.stderr
