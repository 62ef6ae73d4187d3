"""A log that grows: its old rows are known again in a later run, and not paid a second time."""

from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from attributary.cli.main import cli
from attributary.errors import InvalidArgumentError
from attributary.receipts.before import of_run
from attributary.receipts.payout import Terms, payout


def counted(run):
    return of_run(run, payout(run, Terms(Decimal(100), "EUR")).summary["files"])


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "places"])
def test_a_table_that_grew_at_its_beginning(run_score, log_table, tmp_path, ids):
    columns = {} if ids else {"generation_id": None}
    runs = []
    for name, first, count in (("nov", 10, 7), ("dec", 0, 17), ("jan", 20, 5)):
        (tmp_path / name).mkdir()
        pq.write_table(log_table(first, count, **columns), tmp_path / name / "log.parquet")
        runs.append(run_score(tmp_path / name, tmp_path / "runs" / name).directory)
    november, december, january = map(counted, runs)
    assert (november.name == 0).all() == (not ids)
    assert december.among(november).tolist() == [False] * 10 + [True] * 7
    assert not january.among(november + december).any()


def test_a_folder_that_is_scored_with_the_one_above_it(run_score, picture, tmp_path):
    for number in range(6):
        path = tmp_path / "log" / ("nov" if number < 2 else "dec") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    runs = [
        run_score(tmp_path / log, tmp_path / "runs" / name).directory
        for name, log in (("nov", "log/nov"), ("whole", "log"))
    ]
    november, whole = map(counted, runs)
    assert sorted(whole.among(november).tolist()) == [False] * 4 + [True] * 2
    words = ("--pool", "100", "--currency", "EUR")
    CliRunner().invoke(cli, ["payout", str(runs[0]), *words], catch_exceptions=False)
    error = CliRunner().invoke(cli, ["payout", str(runs[1]), *words]).exception
    assert isinstance(error, InvalidArgumentError)
    assert "2 of its 6 answered generations, the first 'log/nov/0.png', were counted by" in str(error)
    assert not Path(runs[1], "payout").exists()


def test_rows_without_an_answer_may_be_paid_when_they_have_one(run_score, log_table, picture, tmp_path):
    for name in ("nov", "dec"):
        (tmp_path / name).mkdir()
    pq.write_table(log_table(0, 2, image=[picture(0), b"no picture"]), tmp_path / "nov" / "log.parquet")
    pq.write_table(log_table(1, 1, image=[picture(1)]), tmp_path / "dec" / "log.parquet")
    november, december = (
        counted(run_score(tmp_path / name, tmp_path / "runs" / name).directory) for name in ("nov", "dec")
    )
    assert len(november) == 1
    assert not december.among(november).any()
