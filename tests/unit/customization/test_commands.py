"""The commands end to end on the tiny data set, and what they say when something is wrong."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from attributary.building.calibration_file import CalibrationFile
from attributary_train.cli import main
from attributary_train.customization.plan import Plan


def run(*words, fails=None):
    result = CliRunner().invoke(main, ["abc", *map(str, words)])
    if fails is None:
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code == 1 and fails in result.output, result.output
    return result


@pytest.fixture
def data(made, tmp_path):
    return ["--data", made, "--distractors", "30", "--cache", tmp_path / "cache"]


def test_the_table(made, data, tmp_path):
    words = ["evaluate", *data, "--maps", tmp_path / "maps", "--no-check", "--steps", "4"]
    words += ["--space", "pixels", "--space", "bottleneck", "--family", "joint", "--family", "object"]
    out = tmp_path / "report.json"
    text = run(*words, "--plots", tmp_path / "plots", "--out", out).output
    told = json.loads(out.read_text())
    assert set(told) == {"script", "machine", "commit", "config", "results", "aims"}
    rows = told["results"]["retrieval"]
    assert {(row["space"], row["map"]) for row in rows} == {
        (space, name) for space in ("pixels", "bottleneck") for name in ("untuned", "joint", "object")
    }
    assert {row["concept or creator"] for row in rows} == {"seen", "unseen"}
    for row in rows:
        assert 0 <= row["R@10 low"] <= row["R@10"] <= row["R@10 high"] <= 1
        assert row["R@5"] <= row["R@10"] <= row["R@100"]
    met = {entry["name"]: entry["met"] for entry in told["aims"]}
    assert met["test exemplars"] is False and met["distractors"] is False
    assert "NOT MET" in text and "retrieval" in text
    assert (tmp_path / "plots" / "abc-r10.svg").read_text().count("<circle") >= 16
    maps = {path: path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir()}
    assert len(maps) == 4
    again = json.loads(run(*words, "--json").stdout)
    assert again["results"] == told["results"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir()} == maps


def test_tune_then_calibrate(made, data, tmp_path):
    maps = tmp_path / "maps"
    text = run("tune", *data, "--space", "pixels", "--steps", "4", "--maps", maps).output
    facts = json.loads(text[text.index("{") :])
    assert facts["family"] == "joint"
    out = tmp_path / "calibrated"
    words = [
        "calibrate",
        *data,
        "--space",
        "pixels",
        "--map",
        maps / "pixels-joint.safetensors",
        "--out",
        out,
    ]
    told = json.loads(run(*words, "--candidates", "25", "--json").stdout)
    assert {row["split"] for row in told["results"]["calibration"]} == {"validation", "seen", "unseen"}
    file = CalibrationFile.read(out / "calibration.json")
    assert file.calibration.image == file.calibration.image_and_prompt
    assert file.calibration.image.temperature > 0 and file.candidates == 25
    assert file.subject_weights == Plan.read(made).weights
    assert all(row["largest sum of shares"] <= 1 + 1e-9 for row in told["results"]["shares"])
    assert "<svg" in (out / "reliability.svg").read_text()


def test_a_sheet(data, tmp_path):
    out = tmp_path / "sheet.png"
    run("sheet", *data, "--space", "pixels", "--rows", "3", "--out", out)
    with Image.open(out) as everything:
        colours = len(everything.getcolors(1 << 20))
    run("sheet", *data, "--space", "pixels", "--rows", "3", "--licence", "MIT", "--out", out)
    with Image.open(out) as generated_only:
        assert len(generated_only.getcolors(1 << 20)) < colours


def test_spaces_are_listed():
    text = run("spaces").output
    assert "efficientnet" in text and "dinov2=PATH" in text


def test_what_is_wrong_is_said_in_a_line(toy, made, data, tmp_path):
    run("evaluate", *data, "--space", "mood", "--maps", tmp_path, "--no-check", fails="'mood' is unknown")
    run(
        "evaluate", *data, "--space", "pixels", "--family", "mood", "--maps", tmp_path, fails="family: 'mood'"
    )
    run("evaluate", *data, "--space", "pixels", "--map", "mood", "--maps", tmp_path, fails="map.kind: 'mood'")
    run("tune", "--data", tmp_path, "--space", "pixels", "--maps", tmp_path, fails="plan.json: not a plan")
    words = ["make", "--subject", toy.subject, "--corpus", toy.corpus.root, "--out", tmp_path / "new"]
    run(*words, "--objects", "1,2", fails="must be four numbers")
    run(*words, "--objects", "900,0,0,0", "--styles", "0,0,0,0", fails="counts.objects")
    leaky = [entry.exemplar.to_json() for entry in Plan.read(made).planned[:1]]
    leaky.append({**leaky[0], "name": "again", "split": "test"})
    path = tmp_path / "exemplars.json"
    path.write_text(json.dumps(leaky))
    run(*words, "--exemplars", path, fails="split leak: item")
