"""Planning: how a log is cut, and what is refused before any work."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attributary.batch.inputs import find_inputs
from attributary.batch.plan import Plan, dry_run, make_plan
from attributary.batch.run import shard_tables
from attributary.batch.settings import Columns, Settings
from attributary.errors import InputError, InvalidArgumentError

SMALL = Settings(rows_per_shard=8)


@settings(deadline=None, max_examples=40)
@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=4), size=st.integers(1, 12))
def test_shards_hold_every_row_once(tmp_path_factory, counts, size):
    directory = tmp_path_factory.mktemp("cut")
    for number, count in enumerate(counts):
        ids = pa.array([f"{number}-{row}" for row in range(count)], pa.string())
        pq.write_table(
            pa.table({"generation_id": ids, "path": ids}), directory / f"{number}.parquet", row_group_size=7
        )
    plan = make_plan([directory], Settings(rows_per_shard=size))
    assert plan.rows == sum(counts)
    assert [shard.number for shard in plan.shards] == list(range(len(plan.shards)))
    rows = [
        (shard.file, row) for shard in plan.shards for row in range(shard.start, shard.start + shard.rows)
    ]
    assert rows == [(file, row) for file, count in enumerate(counts) for row in range(count)]
    read = []
    for shard in plan.shards:
        # Each by a reader of its own, as another machine would.
        reader = plan.reader(shard.file)
        batches = list(reader.batches(shard, 5))
        reader.close()
        assert all(len(batch.rows) == 5 for batch in batches[:-1])
        read += [row.generation_id for batch in batches for row in batch.rows]
    assert read == [f"{file}-{row}" for file, row in rows]


def test_names_are_below_the_common_directory(tmp_path, log_table):
    for name in ("2024/x.parquet", "2023/x.parquet"):
        (tmp_path / name).parent.mkdir()
        pq.write_table(log_table(0, 1), tmp_path / name)
    found = find_inputs([tmp_path / "2024", tmp_path / "2023" / "x.parquet"])
    names = [file.name for file in found.files]
    assert names == ["2023/x.parquet", "2024/x.parquet"]
    assert [file.name for file in find_inputs([tmp_path / "2024"]).files] == ["x.parquet"]


def test_hidden_files_and_other_files_are_no_input(tmp_path, log_table):
    for name in ("a.parquet", ".b.parquet", ".hidden/c.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(log_table(0, 1), tmp_path / name)
    (tmp_path / "_SUCCESS").write_text("")
    assert [file.name for file in find_inputs([tmp_path]).files] == ["a.parquet"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: place / "nothing", "does not exist"),
        (lambda place: touch(place / "log.csv"), r"must be a .parquet, .arrow or .tfrecord file, a .tar"),
        (
            lambda place: touch(place / "d" / "readme.md").parent,
            "holds no Parquet file, no tar and no picture",
        ),
    ],
)
def test_what_is_no_log_is_named(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        find_inputs([make(tmp_path)])


def touch(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    return path


def test_parquet_and_tars_in_one_directory_are_refused(tmp_path, log_table):
    pq.write_table(log_table(0, 1), tmp_path / "a.parquet")
    touch(tmp_path / "b.tar")
    with pytest.raises(InputError, match="Parquet files and tars"):
        find_inputs([tmp_path])


def refused(tmp_path, table, settings=SMALL):
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(InputError) as error:
        make_plan([tmp_path / "log.parquet"], settings)
    assert error.value.file == "log.parquet"
    return error.value


def test_repeated_ids_are_named_with_both_places(tmp_path, log_table):
    table = log_table(0, 20, generation_id=[f"g-{number % 13}" for number in range(20)])
    error = refused(tmp_path, table)
    assert error.place == "column generation_id, row 13"
    assert "'g-0', which log.parquet holds in row 0 already" in error.message


def test_repeated_ids_are_found_across_files(tmp_path, log_table):
    pq.write_table(log_table(0, 20), tmp_path / "a.parquet")
    pq.write_table(log_table(19, 5), tmp_path / "b.parquet")
    with pytest.raises(
        InputError, match=r"b.parquet: column generation_id, row 0: .*'g-19', which a.parquet"
    ):
        make_plan([tmp_path], SMALL)


@pytest.mark.parametrize(
    ("columns", "settings", "place", "message"),
    [
        (
            {"generation_id": None},
            Settings(columns=Columns(id="generation_id")),
            "column generation_id",
            "is missing; there are model_id",
        ),
        ({"image": None}, SMALL, "columns", "none of image, uri, path, "),
        ({}, Settings(columns=Columns(prompt="text")), "column text", "is missing"),
        ({}, Settings(columns=Columns(model="engine")), "column engine", "is missing"),
        ({}, Settings(columns=Columns(image="picture")), "column picture", "is missing"),
        ({}, Settings(pass_through=("owner",)), "column owner", "is missing"),
        (
            {"generation_id": [0.5, 1.5]},
            SMALL,
            "column generation_id",
            "must be text, UUIDs or integers, is double",
        ),
        ({"image": [1, 2]}, SMALL, "column image", "must be binary"),
        ({"prompt": [1, 2]}, SMALL, "column prompt", "must be text, is int64"),
    ],
)
def test_wrong_columns_are_named(tmp_path, log_table, columns, settings, place, message):
    error = refused(tmp_path, log_table(0, 2, **columns), settings)
    assert error.place == place
    assert message in error.message


def test_a_column_that_would_hide_an_answer_is_renamed(tmp_path, log_table, run_score):
    pq.write_table(log_table(0, 2, items=["a", "b"]), tmp_path / "log.parquet")
    run_score(tmp_path / "log.parquet", tmp_path / "run")
    (table,) = shard_tables(tmp_path / "run")
    assert table["log_items"].to_pylist() == ["a", "b"]
    assert table["items"].null_count == 0


def test_columns_must_agree_between_files(tmp_path, log_table):
    pq.write_table(log_table(0, 2), tmp_path / "a.parquet")
    pq.write_table(log_table(2, 2, user=["x", "y"]), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b.parquet: column user: is string, in a.parquet it is int16"):
        make_plan([tmp_path], SMALL)
    make_plan([tmp_path], Settings(pass_through=("prompt",)))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"rows_per_shard": 10**7}, "rows_per_shard"),
        ({"top_k": 1001}, "top_k"),
    ],
)
def test_settings_have_limits(tmp_path, log_table, wrong, field):
    pq.write_table(log_table(0, 1), tmp_path / "log.parquet")
    with pytest.raises(InvalidArgumentError) as error:
        make_plan([tmp_path / "log.parquet"], Settings(**wrong))
    assert error.value.field == field


def test_a_dry_run_opens_a_file_once(tmp_path, log_table, monkeypatch):
    """Opened anew for each shard, a row group or a folder was read from its start each time."""
    for name in ("a", "b"):
        pq.write_table(log_table(20 * (name == "b"), 20), tmp_path / f"{name}.parquet")
    plan = make_plan([tmp_path], Settings(rows_per_shard=3, batch_size=2))
    opened = []
    reader = Plan.reader
    monkeypatch.setattr(Plan, "reader", lambda plan, file: opened.append(file) or reader(plan, file))
    assert dry_run(plan)["rows"] == 40
    assert opened == [0, 1]
