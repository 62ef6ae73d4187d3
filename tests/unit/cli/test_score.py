"""`attributary score` and `attributary report` as commands."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def run(*arguments):
    command = [sys.executable, "-m", "attributary.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


@pytest.fixture
def log(tmp_path, picture):
    table = {
        "id": [f"g-{number}" for number in range(12)],
        "picture": pa.array([picture(number) for number in range(12)], pa.binary()),
        "text": ["a red ellipse"] * 12,
    }
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


COLUMNS = ("--id-column", "id", "--image-column", "picture", "--prompt-column", "text")


def test_score_resume_and_report(log, tiny_bundle_dir, tmp_path):
    out = tmp_path / "run"
    done = run(
        "score", log, "--bundle", tiny_bundle_dir, "--out", out, "--rows-per-shard", 5, *COLUMNS, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answered"] == 12
    assert "12/12 rows" in done.stderr
    assert "0 error rows" in done.stderr
    (out / "shards" / "shard-000001.parquet").unlink()
    (out / "summary.json").unlink()
    again = run(
        "score", log, "--bundle", tiny_bundle_dir, "--out", out, "--rows-per-shard", 5, *COLUMNS, "--json"
    )
    assert again.stdout == done.stdout
    told = run("report", out, "--inputs", log)
    assert told.returncode == 0, told.stderr
    assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bundle", "BUNDLE", "--id-column", "uid"), "column uid: is missing; there are id, picture, text"),
        (("--bundle", "nowhere", *COLUMNS), "manifest.json: is missing"),
        ((*COLUMNS,), "bundle: name a bundle directory, or an --endpoint that serves one"),
        (("--bundle", "BUNDLE", "--endpoint", "h:1"), "endpoint: stands alone"),
        (("--bundle", "BUNDLE", "--alias", "painted"), "alias: is for --endpoint"),
        (("--bundle", "BUNDLE", "--top-k", "0", *COLUMNS), "top_k: must be from 1 to 1000, got 0"),
        (("--bundle", "BUNDLE", "--top-k", "1001", *COLUMNS), "top_k: must be from 1 to 1000, got 1001"),
        (("--bundle", "BUNDLE", "--pass-through", "x", "--no-pass-through"), "pass_through: cannot be given"),
        (("--bundle", "BUNDLE", "--precision", "int8", *COLUMNS), "encoder.int8.onnx: is not in this bundle"),
    ],
)
def test_mistakes_are_one_line(log, tiny_bundle_dir, tmp_path, arguments, message):
    given = [str(tiny_bundle_dir) if value == "BUNDLE" else value for value in arguments]
    failed = run("score", log, "--out", tmp_path / "run", *given)
    assert failed.returncode == 2
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_report_of_no_run_is_one_line(tmp_path):
    failed = run("report", tmp_path)
    assert failed.returncode == 2
    assert "summary.json: is not there" in failed.stderr
