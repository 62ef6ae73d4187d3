"""The command line: what it prints, what it writes, and that mistakes become one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


def run(*arguments, env=None):
    command = [sys.executable, "-m", "attributary.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=120)


def demo(*arguments):
    return run("demo", *arguments)


def test_help_lists_the_verbs():
    shown = run("--help").stdout
    assert all(verb in shown for verb in ("serve", "query", "score", "bundle"))


def test_every_serve_flag_is_an_environment_variable():
    shown = run("serve", "--help").stdout
    flags = [line for line in shown.splitlines() if line.strip().startswith("--") and "--help" not in line]
    assert len(flags) > 20
    assert shown.count("ATTRIBUTARY_") >= len(flags)


def test_environment_variable_reaches_the_server(tiny_bundle_dir):
    import os

    wrong = {**os.environ, "ATTRIBUTARY_MAX_BATCH": "0"}
    failed = run("serve", tiny_bundle_dir, env=wrong)
    assert failed.returncode == 2
    assert "max_batch: must be at least 1, got 0" in failed.stderr


def test_build_verify_inspect(tiny_corpus_dir, tiny_encoder_dir, tmp_path):
    out = tmp_path / "bundle"
    built = run("bundle", "build", "--corpus", tiny_corpus_dir, "--encoder", tiny_encoder_dir, "--out", out)
    assert built.returncode == 0, built.stderr
    assert "300 by 4 creators" in built.stdout
    verified = run("bundle", "verify", out)
    assert verified.returncode == 0
    assert "8 golden queries (fp32)" in verified.stdout
    facts = json.loads(run("bundle", "inspect", out, "--json").stdout)
    assert facts["item_count"] == 300
    assert facts["bundle_id"] in verified.stdout
    again = run("bundle", "build", "--corpus", tiny_corpus_dir, "--encoder", tiny_encoder_dir, "--out", out)
    assert again.returncode == 2
    assert "exists" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bundle", "verify", "nowhere"), "manifest.json: is missing"),
        (("serve", "nowhere"), "manifest.json: is missing"),
        (
            ("query", "nowhere.png", "--address", "127.0.0.1:1", "--timeout", "1"),
            "nowhere.png cannot be read",
        ),
        (
            ("bundle", "build", "--corpus", "no", "--encoder", "no", "--out", "x", "--target-recall", "2"),
            "target_recall: must be in",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    failed = run(*arguments)
    assert failed.returncode == 2
    assert message in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


def test_corrupt_bundle_is_not_served(tiny_bundle_dir, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_bundle_dir, broken)
    data = bytearray((broken / "vectors.npy").read_bytes())
    data[-1] ^= 1
    (broken / "vectors.npy").write_bytes(data)
    failed = run("serve", broken)
    assert failed.returncode == 2
    assert "vectors.npy: SHA-256" in failed.stderr


def test_query_prints_tables_json_and_a_sheet(server, tiny_corpus_dir, tmp_path):
    picture = tiny_corpus_dir / "pictures" / "3.png"
    table = run("query", picture, "--address", server.address, "--timings", "--prompt", "a orange rectangle")
    assert table.returncode == 0, table.stderr
    assert "a orange rectangle" in table.stdout
    assert "encode" in table.stdout
    sheet = tmp_path / "sheet.png"
    shown = run(
        "query", picture, picture, "--address", server.address, "--json", "--top-k", 3,
        "--exclude-creator", "Dee", "--sheet", sheet, "--pictures", tiny_corpus_dir,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    first, second = map(json.loads, shown.stdout.splitlines())
    assert first["items"] == second["items"]
    assert len(first["items"]) == 3
    assert "Dee" not in {item["creator"] for item in first["items"]}
    with Image.open(sheet) as drawn:
        assert drawn.height > 300


def test_query_says_what_the_server_refused(server, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    failed = run("query", tmp_path / "broken.png", "--address", server.address)
    assert failed.returncode == 2
    assert failed.stderr.startswith("attributary: query.image: ")


def test_demo_on_copies(tiny_bundle_dir, tiny_corpus_dir, tmp_path):
    done = demo("--bundle", tiny_bundle_dir, "--corpus", tiny_corpus_dir, "--out", tmp_path, "--copies", 5)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["queries"]) == 5
    assert report["median_phase_ms"]["encode"] > 0
    for asked in report["queries"]:
        assert asked["expected"]["item_ids"]
        assert asked["items"][0]["rank"] == 1
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.width > 900


def test_demo_without_options_says_what_it_needs(tmp_path):
    bare = subprocess.run(
        [sys.executable, "-m", "attributary.cli.main", "demo"],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert bare.returncode == 2 and "attributary-demo" in bare.stderr and "Traceback" not in bare.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_demo_without_options_shows_the_committed_student(tmp_path):
    (tmp_path / "models").symlink_to(Path(__file__).parents[3] / "models")
    for _ in range(2):
        # The second time the bundle is there.
        done = subprocess.run(
            [sys.executable, "-m", "attributary.cli.main", "demo"],
            capture_output=True, text=True, check=False, cwd=tmp_path, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "attributary-demo" / "report.json").read_text())
    assert len(report["queries"]) == 12


def test_demo_names_a_missing_column(tiny_bundle_dir, tiny_corpus_dir, tmp_path):
    failed = demo(
        "--bundle", tiny_bundle_dir, "--corpus", tiny_corpus_dir, "--out", tmp_path,
        "--held-out", tiny_corpus_dir,
    )  # fmt: skip
    assert failed.returncode == 2
    assert "has no column concept_id" in failed.stderr


def test_demo_on_generated_pictures(
    tiny_bundle_dir, tiny_encoder_dir, tiny_corpus_dir, picture, students, tmp_path
):
    ids, vectors = students.vectors_of(tiny_bundle_dir)
    student = students.write_student(tmp_path / "student", tiny_encoder_dir, ids, vectors)
    asked = students.write_queries(tmp_path / "asked", [picture(0), picture(1), picture(2)], foreign=1)
    bundle = tmp_path / "bundle"
    built = run(
        "bundle", "build", "--student", student, "--corpus", tiny_corpus_dir / "items.parquet",
        "--queries", asked, "--out", bundle,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    # Of one item there is a picture, of another a damaged one, of the rest none: captions do.
    (pictures / "1000.png").write_bytes(picture(0))
    (pictures / "1001.png").write_bytes(b"torn")
    done = demo("--bundle", bundle, "--queries", asked, "--pictures", pictures, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [asked["kind"] for asked in report["queries"]] == ["generated", "generated", "foreign"]
    assert report["queries"][0]["expected"]["verdict"] == "1 of the teacher's 1"
    assert report["queries"][2]["expected"]["verdict"] in ("not flagged", "flagged, as it should be")
    assert all(
        0 <= asked["diffuse_share"] <= 1 and "out_of_distribution" in asked for asked in report["queries"]
    )
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.width > 900


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--corpus", "a", "--student", "b", "--out", "x"), "--student needs --queries"),
        (("--corpus", "a", "--student", "b", "--encoder", "c", "--out", "x"), "brings its encoder"),
        (("--corpus", "a", "--out", "x"), "give --encoder or --student"),
        (("--corpus", "a", "--student", "nowhere", "--queries", "q", "--out", "x"), "nowhere"),
    ],
)
def test_bundles_are_built_from_one_or_the_other(arguments, message):
    failed = run("bundle", "build", *arguments)
    assert failed.returncode == 2 and message in failed.stderr and "Traceback" not in failed.stderr
