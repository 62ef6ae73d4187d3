"""Signals become deletions by one command, and the bundle's log says where each was read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from attributary.cli.main import cli
from attributary.delta.items import NewItem
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError


@pytest.fixture
def bundle(tiny_bundle_dir, tmp_path):
    import shutil

    return shutil.copytree(tiny_bundle_dir, tmp_path / "bundle")


@pytest.fixture
def signals(tmp_path):
    """Function: rows (item id, kind, means, last seen) -> a corpus directory with their file."""

    def write(rows, read_at="2026-02-02T00:00:00Z"):
        corpus = tmp_path / "corpus"
        corpus.mkdir(exist_ok=True)
        table = pa.Table.from_pylist(
            [
                {"item_id": number, "uri": "u", "kind": kind, "means": means, "value": "v", "source": f"{kind}.src",
                 "source_sha256": "00", "first_seen": "2026-01-01T00:00:00Z", "last_seen": seen or read_at}
                for number, kind, means, seen in rows
            ]
        )  # fmt: skip
        table = table.replace_schema_metadata({"attributary.read_at": read_at})
        pq.write_table(table, corpus / "opt-out.parquet")
        return corpus

    return write


def run(*words):
    result = CliRunner().invoke(cli, ["bundle", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()] if "--json" in words else result.output


def test_reserved_items_are_deleted_and_the_log_says_why(bundle, signals):
    corpus = signals(
        [
            (1000, "robots", "reserved", ""),
            (1001, "iptc-plus", "reserved", ""),
            (1000, "iptc-plus", "reserved", ""),
            (1002, "tdmrep", "conditional", ""),
            (1003, "cawg", "allowed", ""),
            (1004, "ai.txt", "reserved", "2026-01-01T00:00:00Z"),
            (99, "robots", "reserved", ""),
        ]
    )
    dry = run("opt-out", bundle, "--signals", corpus, "--dry-run", "--json")
    assert {line["signal"]: line["deleted"] for line in dry} == {"iptc-plus": 2, "robots": 0}
    assert "deleted 2 items" in run(
        "opt-out", bundle, "--signals", corpus, "--who", "Ada", "--why", "ticket 17"
    )
    changes = run("log", bundle, "--json")
    assert [sorted(change["ids"]) for change in changes] == [[1000, 1001]]
    why = changes[0]["why"]
    assert "opt-out signal iptc-plus in iptc-plus.src, read 2026-02-02T00:00:00Z, opt-out.parquet " in why
    assert why.endswith("; ticket 17")
    # Again is no error; conditions are asked for.
    told = run("opt-out", bundle, "--signals", corpus, "--json", "--conditional")
    assert {line["signal"]: (line["deleted"], line["already_deleted"]) for line in told} == {
        "iptc-plus": (0, 2),
        "tdmrep": (1, 0),
        "robots": (0, 0),
    }
    assert next(line for line in told if line["signal"] == "robots")["not_in_the_bundle"] == 1


def test_what_the_last_build_could_not_read_still_holds(bundle, signals):
    before = "2026-01-01T00:00:00Z"
    corpus = signals(
        [
            (1000, "cawg", "reserved", before),
            (1001, "cawg", "reserved", "2025-01-01T00:00:00Z"),
            (1002, "robots", "reserved", before),
            (1003, "robots", "reserved", ""),
        ]
    )
    facts = {"opt_out": {"not_read": ["cawg: c2pa-python is not installed"]}}
    (corpus / "corpus.json").write_text(json.dumps(facts))
    told = run("opt-out", bundle, "--signals", corpus, "--json")
    assert {line["signal"]: line["deleted"] for line in told} == {"cawg": 1, "robots": 1}
    assert [change["ids"] for change in run("log", bundle, "--json")] == [[1000], [1003]]


def test_every_kind_of_a_file_is_taken(bundle, signals):
    """Also one that only a newer corpus build knows: it is somebody's wish all the same."""
    kinds = ("noai", "content-signal", "a-later-one")
    run(
        "opt-out",
        bundle,
        "--signals",
        signals([(1000 + at, kind, "reserved", "") for at, kind in enumerate(kinds)]),
    )
    assert sorted(change["ids"] for change in run("log", bundle, "--json")) == [[1000], [1001], [1002]]


def test_one_kind_alone_and_nothing_at_all(bundle, signals):
    corpus = signals([(1000, "robots", "reserved", ""), (1001, "cawg", "reserved", "")])
    run("opt-out", bundle, "--signals", corpus / "opt-out.parquet", "--signal", "robots")
    assert [change["ids"] for change in run("log", bundle, "--json")] == [[1000]]
    assert "no signal reserves an item" in run(
        "opt-out", bundle, "--signals", signals([(1000, "robots", "allowed", "")]), "--signal", "robots"
    )


@pytest.mark.parametrize("data", [None, b"none", b""])
def test_a_file_that_holds_no_signals_is_named(bundle, tmp_path, data):
    path = tmp_path / "opt-out.parquet"
    if data is not None:
        path.write_bytes(data)
    result = CliRunner().invoke(cli, ["bundle", "opt-out", str(bundle), "--signals", str(path)])
    assert isinstance(result.exception, InvalidArgumentError) == (data is None)
    assert "opt-out.parquet" in str(result.exception)
    assert "Traceback" not in result.output


def test_a_server_deletes_what_signals_reserve(bundle, signals, start_server, tmp_path):
    (tmp_path / "admins").write_text("ada secret\n")
    corpus = signals([(1000, "robots", "reserved", ""), (1001, "robots", "reserved", "")])
    with start_server(bundle, config={"admin_tokens_file": str(tmp_path / "admins")}) as server:
        where = ("--address", server.address, "--token", "secret")
        assert run("opt-out", *where, "--signals", corpus, "--json")[0]["deleted"] == 2
        (change,) = run("log", *where, "--json")
        assert (change["who"], sorted(change["ids"])) == ("ada", [1000, 1001])


def test_copies_that_no_signal_reserves_are_told(bundle, signals, picture):
    with Store(bundle) as store:
        words = store.snapshot.bundle.items.caption(store.snapshot.row_of(1000))
        store.add([NewItem(7, picture(0), words, "Somebody else")], who="kim", why="x")
    corpus = signals([(1000, "robots", "reserved", "")])
    (told,) = run("opt-out", bundle, "--signals", corpus, "--dry-run", "--json")
    assert told["near_duplicates"] == [7]
    assert "still there, near duplicates of these: 7" in run("opt-out", bundle, "--signals", corpus)
