"""The terminal: help with examples that are true, tables at any width, and what this machine has."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from attributary.cli.demo import DemoQuery
from attributary.cli.demo import _Answered as DemoAnswered
from attributary.cli.demo import _table as demo_table
from attributary.cli.doctor import doctor_command
from attributary.cli.main import EXAMPLES, cli
from attributary.cli.show import answer_table
from attributary.client.types import Answer, AttributedItem, CreatorShare
from attributary.errors import DeadlineError
from attributary.plain import plain


def leaves(group, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


LEAVES = dict(leaves(cli))


def test_every_verb_has_examples():
    assert set(EXAMPLES) == set(LEAVES)
    for command in LEAVES.values():
        assert "attributary" in command.epilog


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_are_understood(name):
    for line in EXAMPLES[name]:
        words = shlex.split(line.partition(" > ")[0])
        depth = 1 + len(name.split())
        assert words[:depth] == ["attributary", *name.split()]
        # Raises what a wrong option would; nothing is run.
        parent = click.Context(cli, **cli.context_settings)
        LEAVES[name].make_context(name, words[depth:], parent=parent)


def test_short_help_in_every_verb_and_in_both_programs():
    # In a process of its own: click keeps the first help option that a command was asked for.
    for name in ("serve", "query", "bundle", "doctor"):
        command = [sys.executable, "-m", "attributary.cli.main", name, "-h"]
        assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    train = pytest.importorskip("attributary_train.cli")
    assert CliRunner().invoke(train.main, ["-h"]).exit_code == 0


NAME = "A Long Creator's Name"


def answer():
    items = tuple(
        AttributedItem(4_000_000_000 + rank, rank, 0.5, 0.125, "a caption " * 9, NAME, "CC0-1.0", "", "", 1)
        for rank in range(1, 4)
    )  # fmt: skip
    return Answer(
        items, (CreatorShare("A Long Creator's Name", 0.375, 3),), 0.625, 0.0, False, "b", "1", None
    )


@pytest.mark.parametrize("width", [34, 40, 50, 60, 80, 100, 200])
def test_rank_id_share_and_file_are_whole_at_any_width(width):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(answer_table("picture.png", answer()))
    shown = capture.get()
    assert "picture.png" in shown
    for rank in range(1, 4):
        line = next(line for line in shown.splitlines() if str(4_000_000_000 + rank) in line)
        assert "12.5%" in line and f" {rank} " in line
        assert len(line) <= width


def test_doctor_says_what_is_missing_and_how_to_get_it(monkeypatch):
    from attributary.cli import doctor

    monkeypatch.setattr(doctor, "find_spec", lambda module: None if module == "ray" else object())
    found = json.loads(CliRunner().invoke(doctor_command, ["--json"]).stdout)
    by_name = {finding["what"]: finding for finding in found}
    assert by_name["kernels"]["told"] and by_name["onnxruntime"]["found"]
    assert by_name["extra ray"]["found"] is False
    assert "pip install 'attributary[ray]'" in by_name["extra ray"]["told"]
    assert CliRunner().invoke(doctor_command).exit_code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    shown = CliRunner().invoke(cli, ["completion", shell])
    assert shown.exit_code == 0 and "_ATTRIBUTARY_COMPLETE" in shown.stdout


def test_describe_and_item_show_what_the_server_says(server):
    told = CliRunner().invoke(cli, ["describe", "--address", server.address])
    assert told.exit_code == 0 and "300 by 4 creators" in told.stdout
    shown = CliRunner().invoke(cli, ["item", "1003", "1004", "--address", server.address, "--json"])
    assert [json.loads(line)["id"] for line in shown.stdout.splitlines()] == [1003, 1004]


def test_silence_asks_whether_a_server_is_there():
    # Its repeated calls end at the deadline, and gRPC's words for that say nothing.
    command = [
        sys.executable,
        "-m",
        "attributary.cli.main",
        "describe",
        "--address",
        "127.0.0.1:1",
        "--timeout",
        "0.5",
    ]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert failed.returncode == 2
    assert "server is running" in failed.stderr or "is a server running there?" in failed.stderr
    assert plain(str(DeadlineError("x"))) == "x"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_demos_table_fits_and_keeps_its_numbers(width):
    query = DemoQuery("generated", "a long title " * 5, "", b"", "", frozenset({4_000_000_001}))
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(demo_table([DemoAnswered(query, answer())], width))
    shown = capture.get().splitlines()
    assert max(map(len, shown)) <= width
    assert "37.5%" not in capture.get() and "12.5%" in capture.get() and "62.5%" in capture.get()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
@pytest.mark.parametrize("words", [["--help"], ["doctor", "--json"]])
def test_a_full_disk_behind_standard_output_is_one_line(words):
    with Path("/dev/full").open("w") as full:
        told = subprocess.run(
            [sys.executable, "-m", "attributary.cli.main", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert told.returncode == 2
    assert told.stderr == "attributary: cannot write all of it: No space left on device\n"
