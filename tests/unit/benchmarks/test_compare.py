"""Two results as ratios: rows find each other by what they are about, and what makes them no pair is told."""

import json

import pytest

SCRIPT = "compare"
MACHINE = {"cpu": "one", "cores": 2}


def report(rows, script="serving", **changes):
    return {
        "script": script,
        "machine": MACHINE,
        "commit": "abc",
        "config": {"rounds": 3},
        "results": rows,
    } | changes


def row(kind, callers, ms):
    return {"kind": kind, "callers": callers, "p50_ms": ms, "batch": None}


BEFORE = report({"latency": [row("image", 1, 4.0), row("image", 8, 10.0), row("gone", 1, 1.0)]})
AFTER = report({"latency": [row("image", 8, 5.0), row("image", 1, 6.0), row("new", 1, 1.0)]})


def test_rows_are_matched_by_what_they_are_about(script):
    found = script.compared(BEFORE, AFTER)
    assert [(one["before"], one["after"], one["ratio"]) for one in found] == [
        (10.0, 5.0, 0.5),
        (4.0, 6.0, 1.5),
    ]
    assert found[0]["about"] == "batch None, callers 8, kind image" and found[0]["figure"] == "p50_ms"
    # A list of rows is a table without a name; what was 0 has no ratio.
    assert script.compared(report([row("a", 1, 0.0)]), report([row("a", 1, 2.0)])) == []


def test_other_machines_and_settings_are_told(script):
    other = report([], machine=MACHINE | {"cpu": "two"}, config={"rounds": 3, "size": 64})
    assert script.differences(BEFORE, BEFORE) == []
    assert script.differences(BEFORE, other) == [
        "machine: cpu was one, is two",
        "config: size was None, is 64",
    ]


def test_the_command_prints_one_object_and_refuses_two_scripts(script, tmp_path, monkeypatch, capsys):
    places = []
    for name, what in (("a", BEFORE), ("b", AFTER), ("c", report([], script="index"))):
        places.append(tmp_path / f"{name}.json")
        places[-1].write_text(json.dumps(what))
    monkeypatch.setattr("sys.argv", ["compare", str(places[0]), str(places[1]), "--json"])
    assert script.main() == 0
    assert json.loads(capsys.readouterr().out)["medians"] == {"p50_ms": 1.0}
    monkeypatch.setattr("sys.argv", ["compare", str(places[0]), str(places[1])])
    assert script.main() == 0 and "0.500  p50_ms: 10 -> 5" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["compare", str(places[0]), str(places[2])])
    assert script.main() == 2 and "one is of serving, the other of index" in capsys.readouterr().err


@pytest.mark.parametrize("results", [{"words": "none"}, {"latency": {"p50": 1.0}}])
def test_what_is_no_table_is_passed_over(script, results):
    assert script.compared(report(results), report(results)) == []
