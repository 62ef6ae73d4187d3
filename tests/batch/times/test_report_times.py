"""Law 9: the report reads every time format that docs/batch.md promises."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.batch.job import score
from attributary.batch.plan import make_plan
from attributary.batch.report_data import gather
from attributary.batch.scoring import EngineScorer
from attributary.batch.settings import Settings
from attributary.errors import InputError

COUNT = 20
BEGUN = datetime.datetime(2024, 3, 1, 12, 0, 0, 500_000, tzinfo=datetime.UTC)
AT = [BEGUN + datetime.timedelta(hours=number) for number in range(COUNT)]
SECONDS = [at.timestamp() for at in AT]


def zone(number):
    return datetime.timezone(datetime.timedelta(hours=number % 5 - 2))


def whole(times):
    return [int(time) for time in times]


COLUMNS = {
    "timestamps": pa.array(AT, pa.timestamp("us", "UTC")),
    "another zone": pa.array(AT, pa.timestamp("us", "America/New_York")),
    "nanoseconds": pa.array(AT, pa.timestamp("ns")),
    "coarse": pa.array([at.replace(microsecond=0) for at in AT], pa.timestamp("s")),
    "seconds": pa.array(SECONDS),
    "whole seconds": pa.array(whole(SECONDS)),
    "32 bits": pa.array(whole(SECONDS), pa.uint32()),
    "milliseconds": pa.array(whole(time * 1e3 for time in SECONDS)),
    "microseconds": pa.array(whole(time * 1e6 for time in SECONDS)),
    "whole nanoseconds": pa.array([int(time * 1e6) * 1000 for time in SECONDS]),
    "decimals": pa.array([decimal.Decimal(f"{time:.3f}") for time in SECONDS], pa.decimal128(18, 3)),
    "seconds as text": pa.array([f"{time:.1f}" for time in SECONDS]),
    "milliseconds as text": pa.array([str(int(time * 1e3)) for time in SECONDS]),
    "iso": pa.array([at.isoformat() for at in AT]),
    "iso with Z": pa.array([at.replace(tzinfo=None).isoformat() + "Z" for at in AT]),
    "iso with a space": pa.array([at.replace(tzinfo=None).isoformat(" ") for at in AT]),
    "iso without a zone": pa.array([at.replace(tzinfo=None).isoformat() for at in AT]),
    "iso with UTC": pa.array([at.replace(tzinfo=None).isoformat(" ") + " UTC" for at in AT]),
    "nine digits": pa.array([at.strftime("%Y-%m-%dT%H:%M:%S.500000000Z") for at in AT]),
    "other zones": pa.array([at.astimezone(zone(number)).isoformat() for number, at in enumerate(AT)]),
    "basic": pa.array([at.strftime("%Y%m%dT%H%M%SZ") for at in AT]),
    "large text": pa.array([at.isoformat() for at in AT], pa.large_string()),
}  # fmt: skip


def run_with(tmp_path, score_log, picture, column):
    table = {"image": pa.array([picture(number) for number in range(len(column))], pa.binary()), "at": column}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    score_log(tmp_path / "log.parquet", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def scored(tmp_path_factory, score_log, picture):
    """A run with every column."""
    place = tmp_path_factory.mktemp("times")
    table = {"image": pa.array([picture(number) for number in range(COUNT)], pa.binary()), **COLUMNS}
    pq.write_table(pa.table(table), place / "log.parquet")
    score_log(place / "log.parquet", place / "run")
    return place / "run"


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_format_has_the_same_slices(scored, kind):
    data = gather(scored, time_column=kind)
    assert [part.rows for part in data.slices] == [10, 10]
    assert data.slices[0].label == "2024-03-01 12:00:00"
    assert data.timeless == 0


def test_dates(tmp_path, score_log, picture):
    days = [datetime.date(2024, 1, 1 + number) for number in range(COUNT)]
    for number, column in enumerate(
        (pa.array(days), pa.array(days, pa.date64()), pa.array([day.isoformat() for day in days]),
         pa.array([day.strftime("%Y%m%d") for day in days]), pa.array([f"{2000 + number}" for number in range(COUNT)]))
    ):  # fmt: skip
        (tmp_path / str(number)).mkdir()
        run = run_with(tmp_path / str(number), score_log, picture, column)
        assert [part.rows for part in gather(run, time_column="at").slices] == [10, 10]


EMPTIES = {
    "text": ([*(at.isoformat() for at in AT[:17]), "", None, "n/a"], pa.string()),
    "floats": ([*SECONDS[:17], float("nan"), None, float("inf")], pa.float64()),
    "timestamps": ([*AT[:17], None, None, None], pa.timestamp("us", "UTC")),
}


@pytest.mark.parametrize("kind", EMPTIES)
def test_empties_are_counted(tmp_path, score_log, picture, kind):
    values, type_ = EMPTIES[kind]
    data = gather(run_with(tmp_path, score_log, picture, pa.array(values, type_)), time_column="at")
    assert data.timeless == 3
    assert sum(part.rows for part in data.slices) == 17


def test_the_unit_can_be_told(tmp_path, score_log, picture):
    # Milliseconds of 1970 look like seconds.
    run = run_with(tmp_path, score_log, picture, pa.array(np.arange(COUNT) * 86_400_000))
    assert gather(run, time_column="at", time_unit="ms").slices[0].label == "1970-01-01 00:00:00"
    assert gather(run, time_column="at", time_unit="ms").slices[1].label == "1970-01-10 12:00:00"


def test_what_is_no_time_is_named(tmp_path, score_log, picture):
    for number, column in enumerate((pa.array(["x"] * 4), pa.nulls(4, pa.float64()), pa.array([[1]] * 4))):
        (tmp_path / str(number)).mkdir()
        run = run_with(tmp_path / str(number), score_log, picture, column)
        with pytest.raises(InputError, match="column at: must be a time"):
            gather(run, time_column="at")


def test_years_beyond_python_do_not_stop_a_report(tmp_path, tiny_engine, picture):
    column = pa.array([2**60, None, 1, 2], pa.timestamp("us"))
    table = {"image": pa.array([picture(number) for number in range(4)], pa.binary()), "at": column}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    plan = make_plan([tmp_path / "log.parquet"], Settings())
    score(plan, EngineScorer(tiny_engine, plan.settings), tmp_path / "run", workers=1)
    data = gather(tmp_path / "run", time_column="at")
    assert (data.timeless, data.slices[0].rows) == (1, 3)
    assert len(data.most_certain) == 4
