"""Small logs of the tiny corpus's pictures, and one call that scores them."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.batch.job import score
from attributary.batch.plan import make_plan
from attributary.batch.scoring import EngineScorer
from attributary.batch.settings import Settings

SMALL = Settings(rows_per_shard=8, batch_size=3)


def log_table(picture, first: int, count: int, /, **columns) -> pa.Table:
    """Rows with every column that a log may have; keyword arguments replace or add columns, None removes one."""
    numbers = range(first, first + count)
    table = {
        "generation_id": [f"g-{number}" for number in numbers],
        "model_id": ["painter-1"] * count,
        "image": pa.array([picture(number % 300) for number in numbers], pa.binary()),
        "prompt": [("a red ellipse", "a blue rectangle", None)[number % 3] for number in numbers],
        "user": pa.array([number % 7 for number in numbers], pa.int16()),
    }
    table.update(columns)
    return pa.table({name: values for name, values in table.items() if values is not None})


@pytest.fixture
def log(tmp_path, picture) -> Path:
    """A directory of two Parquet files, 30 and 17 rows, row groups of 5."""
    directory = tmp_path / "log"
    directory.mkdir()
    pq.write_table(log_table(picture, 0, 30), directory / "a.parquet", row_group_size=5)
    pq.write_table(log_table(picture, 30, 17), directory / "b.parquet", row_group_size=5)
    return directory


@pytest.fixture(scope="session")
def run_score(tiny_engine):
    """Function: (inputs, out, workers=..., max_error_rate=..., progress=..., **settings) -> Result."""

    def run(inputs, out, *, workers=2, max_error_rate=1.0, progress=lambda counts: None, **settings):
        settings = replace(SMALL, **settings)
        inputs = inputs if isinstance(inputs, list) else [inputs]
        plan = make_plan(inputs, settings)
        scorer = EngineScorer(tiny_engine, settings)
        return score(plan, scorer, out, workers=workers, max_error_rate=max_error_rate, progress=progress)

    return run


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a run but its lock, by name."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="session", name="contents")
def contents_fixture():
    """Function: run directory -> {name: bytes}."""
    return contents


@pytest.fixture(scope="session", name="log_table")
def log_table_fixture(picture):
    """Function: (first, count, **columns) -> table of a log."""
    return lambda first, count, **columns: log_table(picture, first, count, **columns)
