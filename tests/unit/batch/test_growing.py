"""A log that somebody writes to while it is scored: no row takes the place of one that was planned."""

import pyarrow.parquet as pq
import pytest

from attributary.batch.job import score
from attributary.batch.plan import make_plan
from attributary.batch.scoring import EngineScorer
from attributary.batch.settings import Settings
from attributary.errors import InputError

SETTINGS = Settings(rows_per_shard=2, batch_size=2)


@pytest.fixture
def score_after(tiny_engine, tmp_path):
    """Function: (log, what happens between plan and score) -> Result."""

    def run(log, change):
        plan = make_plan([log], SETTINGS)
        change()
        return score(plan, EngineScorer(tiny_engine, SETTINGS), tmp_path / "out", workers=1)

    return run


def test_a_picture_that_comes_before_others_puts_none_out(score_after, picture, tmp_path):
    """The last picture had no row, and its creators no money."""
    log = tmp_path / "log"
    log.mkdir()
    for number in range(1, 5):
        (log / f"{number}.png").write_bytes(picture(number))
    with pytest.raises(InputError, match="log: has changed since it was planned"):
        score_after(log, lambda: (log / "0.png").write_bytes(picture(0)))


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "places"])
def test_a_table_that_is_written_again(score_after, log_table, tmp_path, ids):
    columns, path = {} if ids else {"generation_id": None}, tmp_path / "log.parquet"
    pq.write_table(log_table(0, 4, **columns), path)
    with pytest.raises(InputError, match="has changed since it was planned"):
        score_after(path, lambda: pq.write_table(log_table(20, 6, **columns), path))


def test_what_nobody_writes_to_is_scored(score_after, log_table, tmp_path):
    pq.write_table(log_table(0, 4), tmp_path / "log.parquet")
    assert score_after(tmp_path / "log.parquet", lambda: None).counts.rows == 4
