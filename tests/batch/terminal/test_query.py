"""Law 10: several pictures in one `query` each get an answer, or an error with the file's name."""

import json
import subprocess
import sys

import pytest


def query(*arguments, **settings):
    command = [sys.executable, "-m", "attributary.cli.main", "query", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **settings)


@pytest.fixture
def pictures(tmp_path, picture):
    (tmp_path / "good.png").write_bytes(picture(1))
    (tmp_path / "bad.png").write_bytes(b"x")
    return [tmp_path / name for name in ("good.png", "bad.png", "none.png", "good.png")]


def test_each_file_has_an_answer_or_an_error(server, pictures):
    told = query(*pictures, "--address", server.address, "--json")
    assert told.returncode == 2
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in pictures]
    assert ["error" in line for line in lines] == [False, True, True, False]
    told = query(*pictures, "--address", server.address)
    assert told.stdout.count("good.png") == 2
    assert "bad.png: " in told.stderr
    assert "none.png: " in told.stderr
    assert "Traceback" not in told.stderr


def test_a_prompt_that_is_no_text_is_named(server, pictures):
    told = query(
        pictures[0], "--address", server.address, "--prompt", b"caf\xe9".decode(errors="surrogateescape")
    )
    assert told.returncode == 2
    assert "query.prompt: is not valid Unicode" in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
