"""Law 10, and what strangers write: nothing of it moves a cursor, colours a screen or forges a line."""

import csv
import io
import json
import shutil

import pytest
from click.testing import CliRunner
from rich.console import Console

from attributary.attribution.types import AttributedItem, CreatorShare
from attributary.cli.lifecycle import log_command
from attributary.cli.sheet import Row, contact_sheet
from attributary.cli.show import answer_table
from attributary.client.admin import AdminClient
from attributary.client.types import Answer
from attributary.delta.journal.records import Deleted
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError
from attributary.plain import csv_file, json_line, plain

HOSTILE = [
    "\x1b[2J\x1b[1;31mred", "\x9b31mred", "a\rb", "two\nlines", "\u202eevil", "bell\a", "\x1b]8;;http://x\x07click",
    "[bold red]x[/bold red]", "[/]", "[/foo]", "[link=http://x]y[/link]", "\udcff", "\u2028", "a [v2] b",
]  # fmt: skip


def drawn(caption, creator="Ann", licence="MIT", title="x.png", width=80):
    items = tuple(AttributedItem(n, n, 0.912, 0.123, caption, creator, licence, "") for n in range(1, 11))
    answer = Answer(items, (CreatorShare(creator, 0.5, 1),), 0.5, 0.0, True, "b", "1", None)
    out = io.StringIO()
    Console(file=out, force_terminal=False, width=width).print(answer_table(title, answer))
    return out.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_one_sanitiser(text):
    shown = plain(text)
    assert shown.isprintable()
    assert plain(shown) == shown
    assert json.loads(json_line({"caption": text})) == {"caption": text}
    assert json_line({"caption": text}).isprintable()


def test_what_people_write_stays():
    for text in ("a cat", "café", "東京", "\U0001f469\u200d\U0001f680", '[v2] (x:1.3) \\ "quoted"'):
        assert plain(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_show_markup_and_controls_as_they_are(text):
    shown = drawn(text, creator=text, licence=text, title=text, width=200)
    assert plain(text)[:12] in shown
    assert all(line.isprintable() for line in shown.splitlines())
    assert "\x1b" not in shown


@pytest.mark.parametrize("width", [60, 80, 100])
def test_captions_give_way_to_numbers_and_creators(width):
    shown = drawn(
        "a very long caption that goes on and on " * 4, "Microsoft Corporation", "CC-BY-SA-4.0", width=width
    )
    lines = shown.splitlines()
    assert all(len(line) <= width for line in lines)
    for part in ("similarity", "share", "creator"):
        assert part in shown
    rows = [line for line in lines if "0.912" in line]
    assert len(rows) == 10
    for number, line in enumerate(rows, 1):
        assert f" {number} " in line
        assert "12.3%" in line
        assert "Microsoft Corporation" in line
    if width >= 80:
        assert "a very l" in rows[0]


def test_cells_are_no_formulas():
    rows = [
        ("=HYPERLINK(1)", 1.0),
        ("+1", -2.0),
        ("-1", 0),
        ("@x", 1),
        ("\t=1", 1),
        (" =1", 1),
        ("Ann", -1.5),
    ]
    read = list(csv.reader(io.StringIO(csv_file(("creator", "share"), rows).decode())))[1:]
    assert [row[0] for row in read] == ["'=HYPERLINK(1)", "'+1", "'-1", "'@x", "'\t=1", "' =1", "Ann"]
    assert read[1][1] == "-2.0"


def test_a_reason_forges_no_line_of_the_audit(tmp_path, tiny_bundle_dir):
    shutil.copytree(tiny_bundle_dir, tmp_path / "b")
    forged = ("eve\n     9  now  root", "x\n     2  then  root  add 9\x1b[2K")
    with Store(tmp_path / "b") as store:
        for who, why in (forged, (forged[0], "x"), ("eve", forged[1])):
            with pytest.raises(InvalidArgumentError, match="must be one line without control characters"):
                store.delete(Selection((1000,)), who=who, why=why)
        store.delete(Selection((1000,)), who="eve", why="x")
        # A journal from before they were refused.
        store._commit(Deleted("then", *forged, "", (1001,)))
    told = CliRunner().invoke(log_command, [str(tmp_path / "b")])
    assert told.exit_code == 0, told.output
    assert len(told.output.splitlines()) == 2
    assert "\x1b" not in told.output


def test_a_caption_of_several_lines_is_drawn(picture):
    items = (AttributedItem(1, 1, 0.9, 0.5, "two\nlines\x1b[31m", "An\nn", "MIT", ""),)
    answer = Answer(items, (CreatorShare("An\nn", 0.5, 1),), 0.5, 0.0, False, "b", "1", None)
    assert contact_sheet([Row(picture(0), "x\ny", answer, "a\nb")], lambda item_id: None).size[0] > 100


def test_words_of_the_audit_that_are_no_text_are_named(tmp_path, tiny_bundle_dir):
    shutil.copytree(tiny_bundle_dir, tmp_path / "b")
    with (
        Store(tmp_path / "b") as store,
        pytest.raises(InvalidArgumentError, match="why: must be valid Unicode"),
    ):
        store.delete(Selection((1000,)), who="eve", why="caf\udce9")
    with AdminClient("127.0.0.1:1", token="x") as client:
        with pytest.raises(InvalidArgumentError, match="why: is not valid Unicode"):
            client.compact(why="caf\udce9")
        with pytest.raises(InvalidArgumentError, match=r"selection\.creator"):
            client.delete_items(creator="caf\udce9", why="x")
