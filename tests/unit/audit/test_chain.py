"""Calibration commands on a real teacher and a fake student: what they write, report and refuse."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from attributary.attribution.open import open_engine
from attributary.building.calibration_file import CalibrationFile
from attributary_train.calibration.plot import reliability_svg
from attributary_train.calibration.report import PANELS
from attributary_train.evaluation.from_labels import scores_of_labels
from attributary_train.evaluation.scores import save_scores

MADE = ("noise", "flat colours", "gradients", "text and screens", "untrained generator")


@pytest.fixture
def student(chain, tmp_path):
    return shutil.copytree(chain.student, tmp_path / "student")


def test_the_calibration_reaches_the_bundle(chain):
    file = CalibrationFile.read(chain.student / "calibration.json")
    manifest = open_engine(chain.bundle).bundle.manifest
    assert manifest.calibration == file.calibration
    assert manifest.subject.weights_digest == chain.subject.model.weights
    assert file.candidates == 48 and "50 validation queries" in file.calibration.method
    held_out = json.loads(manifest.notes["measured"])["held_out"]
    assert held_out["queries"] == 10
    assert 0 <= held_out["agreement"]["overlap_at_10"]["mean"] <= 1


def test_the_report_has_every_reading(chain, tmp_path):
    plot = tmp_path / "plot.svg"
    told = chain.calibrate(
        "report", *chain.options(), "--labels", chain.labels["test"], "--json", "--plot", plot
    )
    assert told.exit_code == 0, told.output
    report = json.loads(told.output[told.output.index("{") :])
    for kind in ("image", "image_and_prompt"):
        found = report["results"][kind]
        assert found["largest sum of shares"] <= 1 + 1e-9
        assert found["loss"] <= found["loss of even shares"] + 0.5
        assert found["least loss"] <= found["loss"]
        for panel in PANELS:
            error = found["reliability"][panel]["expected calibration error"]
            assert 0 <= error["low"] <= error["value"] <= 1
        assert found["creators"]["largest"]
        assert found["by prompt"]["seen"]["queries"] == 10
    assert len(report["aims"]) == 10
    assert (
        plot.read_text().startswith("<svg") and reliability_svg(report["results"], PANELS) == plot.read_text()
    )


def test_labels_that_were_fitted_to_are_no_report(chain):
    told = chain.calibrate(
        "report", *chain.options(), "--labels", chain.labels["validation"], "--split", "validation"
    )
    assert told.exit_code == 1 and "those that the calibration was fitted to" in told.output


def test_a_score_file_says_what_a_folder_of_labels_says(chain, tmp_path):
    labels = scores_of_labels(chain.labels["validation"], "teacher", ("validation",))
    save_scores(labels, tmp_path / "scores.npz")
    made = []
    for name, told in (("folder", chain.labels["validation"]), ("scores", tmp_path / "scores.npz")):
        out = tmp_path / f"{name}.json"
        done = chain.calibrate("fit", *chain.options(), "--labels", told, "--out", out)
        assert done.exit_code == 0, done.output
        made.append(json.loads(out.read_text()))
    assert made[0]["calibration"] == made[1]["calibration"]


def test_score_files_of_another_model_or_of_other_queries_are_refused(chain, tmp_path):
    labels = scores_of_labels(chain.labels["validation"], "teacher", ("validation",))
    for change, reason in (
        ({"weights": "7" * 64}, "scores of model 777777777777"),
        ({"queries": ("other", *labels.queries[1:])}, "1 queries are not in the file of queries, e.g. other"),
        ({"digests": ("d" * 64,) * len(labels.queries)}, "is another one (prompt, seed or picture)"),
    ):
        save_scores(replace(labels, **change), tmp_path / "scores.npz")
        told = chain.calibrate("fit", *chain.options(), "--labels", tmp_path / "scores.npz")
        assert told.exit_code == 1 and reason in told.output, told.output


def test_labels_of_another_model_are_refused(chain, tmp_path):
    labels = shutil.copytree(chain.labels["validation"], tmp_path / "labels")
    facts = json.loads((labels / "labels.json").read_text())
    (labels / "labels.json").write_text(json.dumps({**facts, "weights": "7" * 64}))
    told = chain.calibrate("fit", *chain.options(), "--labels", labels)
    assert told.exit_code == 1 and "labels of model 777777777777" in told.output
    assert "Traceback" not in told.output


def test_a_student_of_another_model_is_refused(chain, student):
    facts = json.loads((student / "student.json").read_text())
    facts["subject"]["weights"] = "8" * 64
    (student / "student.json").write_text(json.dumps(facts))
    told = chain.calibrate(
        "fit", "--student", student, *chain.options(student=False), "--labels", chain.labels["validation"]
    )
    assert told.exit_code == 1 and "is a student of model 888888888888" in told.output


def test_a_split_without_labels_is_named(chain):
    told = chain.calibrate("fit", *chain.options(), "--labels", chain.labels["test"])
    assert told.exit_code == 1 and "holds no label of the split validation" in told.output


def test_the_flag_on_foreign_pictures(chain, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    told = chain.calibrate(
        "flag", *chain.options(), "--foreign", f"photographs={folder}", "--count", 6, "--json"
    )
    assert told.exit_code == 0, told.output
    report = json.loads(told.output[told.output.index("{") :])
    kinds = {"photographs": 3, **dict.fromkeys(MADE, 6), "adversarial": 6}
    assert report["config"]["foreign"] == kinds
    rows = report["results"]["image"]
    assert {row["score"] for row in rows} >= {"best cosine", "mean of the best ten"}
    assert all(0 <= row["photographs"]["detected"] <= 1 for row in rows)
    in_use = report["results"]["image, in use"]
    assert set(in_use) == {"generated", *kinds}
    for name, row in in_use.items():
        # A picture is flagged where one half of the flag says so, and is then paid nothing.
        assert (
            max(row["by cosine"], row["by pixels"]) <= row["flagged"] <= row["by cosine"] + row["by pixels"]
        ), name
        assert row["paid"] <= row["paid without a flag"] + 1e-9
    wrong = chain.calibrate("flag", *chain.options(), "--foreign", "photographs=nowhere")
    assert wrong.exit_code == 2 and "a folder that exists" in wrong.output


def test_two_draws_of_the_noise(chain, tmp_path):
    from attributary_train.teacher.labels import read_labels, write_shard

    first = chain.labels["test"]
    second = shutil.copytree(first, tmp_path / "second")
    same = chain.calibrate("noise", "--first", first, "--second", second, "--items", 48)
    assert same.exit_code == 1 and "the noise is the same" in same.output
    facts = json.loads((second / "labels.json").read_text())
    facts["settings"]["teacher"]["draw"] = 1
    (second / "labels.json").write_text(json.dumps(facts))
    told = chain.calibrate("noise", "--first", first, "--second", second, "--items", 48, "--json")
    rows = json.loads(told.output)["results"]["levels"]
    assert [row["level"] for row in rows] == [2, 3, 4, 6]
    assert all(row["total variation"]["value"] == 0 and row["rank correlation"] == 1 for row in rows)
    labels = read_labels(first)[:2]
    for path in (second / "shards").glob("*.parquet"):
        path.unlink()
    moved = [type(one)(**{**one.__dict__, "scores": one.scores[::-1].copy()}) for one in labels]
    write_shard(second, 0, moved)
    told = chain.calibrate("noise", "--first", first, "--second", second, "--items", 48, "--json")
    report = json.loads(told.output)
    assert report["config"]["queries"] == 2
    assert all(row["total variation"]["value"] > 0.1 for row in report["results"]["levels"])
    facts["weights"] = "9" * 64
    (second / "labels.json").write_text(json.dumps(facts))
    other = chain.calibrate("noise", "--first", first, "--second", second, "--items", 48)
    assert other.exit_code == 1 and "differs from" in other.output
