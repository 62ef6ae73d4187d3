"""Law 7: directories as data systems leave them."""

import base64
import json
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.batch.inputs import live_files
from attributary.batch.plan import make_plan
from attributary.batch.settings import IMAGE_COLUMNS, Settings
from attributary.errors import InputError


def part(picture, first, count=3, **columns):
    numbers = range(first, first + count)
    there = {
        "generation_id": [f"g{number}" for number in numbers],
        "image": pa.array([picture(number) for number in numbers], pa.binary()),
    }
    return pa.table({name: value for name, value in {**there, **columns}.items() if value is not None})


def put(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def test_names_that_are_no_data(tmp_path, picture, score_log):
    log = tmp_path / "log"
    put(log / "part-0000.snappy.parquet", part(picture, 0))
    for name in ("_SUCCESS", ".part-0000.snappy.parquet.crc", "_committed_123", "_metadata"):
        (log / name).write_bytes(b"x")
    put(log / "_temporary" / "0" / "part-0001.parquet", part(picture, 3))
    put(log / ".hive-staging" / "part.parquet", part(picture, 6))
    put(log / ".hoodie" / "metadata" / "files.parquet", part(picture, 9))
    (log / ".hoodie" / "hoodie.properties").write_text("{}")
    rows, summary = score_log(log, tmp_path / "run")
    assert [row["generation_id"] for row in rows] == ["g0", "g1", "g2"]
    assert summary["skipped"] == {"hidden: a name that begins with a dot or an underscore": 2}
    assert sum(summary["ignored"].values()) == 6


def test_partitions_become_columns(tmp_path, picture, score_log):
    log = tmp_path / "log"
    for number, (year, model) in enumerate(
        ((2023, "a%2Fb"), (2024, "__HIVE_DEFAULT_PARTITION__"), (2024, "x=y"))
    ):
        put(log / f"year={year}" / f"model_id={model}" / "0.parquet", part(picture, 3 * number))
    rows, _ = score_log(log, tmp_path / "run")
    assert [(row["year"], row["model_id"]) for row in rows[::3]] == [
        (2023, "a/b"),
        (2024, None),
        (2024, "x=y"),
    ]
    put(log / "year=n.a." / "model_id=m" / "0.parquet", part(picture, 20))
    rows, _ = score_log(log, tmp_path / "run-2")
    assert {row["year"] for row in rows} == {"2023", "2024", "n.a."}
    one, _ = score_log(log, tmp_path / "run-3", pass_through=())
    assert "year" not in one[0]


def test_partitions_of_tars(tmp_path, picture, score_log):
    import io
    import tarfile

    for day in ("01", "02"):
        path = tmp_path / "log" / f"day={day}" / "0.tar"
        path.parent.mkdir(parents=True)
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("a.png")
            info.size = len(picture(int(day)))
            tar.addfile(info, io.BytesIO(picture(int(day))))
    rows, _ = score_log(tmp_path / "log", tmp_path / "run")
    assert [row["day"] for row in rows] == ["01", "02"]


JOINED = {
    "widths": ([1, 2, 3], pa.int32(), [1, 2, 3], pa.int64(), pa.int64()),
    "whole and not": ([1, 2, 3], pa.int64(), [1.5, None, 2.0], pa.float64(), pa.float64()),
    "text": (["a"] * 3, pa.string(), ["a"] * 3, pa.large_string(), pa.large_string()),
    "views": (["a"] * 3, pa.string_view(), ["a"] * 3, pa.string(), pa.string()),
    "clocks": ([1, 2, 3], pa.timestamp("us"), [1, 2, 3], pa.timestamp("ns"), pa.timestamp("us")),
    "zones": (
        [1, 2, 3],
        pa.timestamp("us", "UTC"),
        [1] * 3,
        pa.timestamp("us", "Europe/Berlin"),
        pa.timestamp("us", "UTC"),
    ),
    "far years": ([2**57] * 3, pa.timestamp("us"), [1] * 3, pa.timestamp("ns"), pa.timestamp("us")),
    "nothing": (None, pa.null(), [1, 2, 3], pa.int64(), pa.int64()),
    "signs": ([2**64 - 1, None, 1], pa.uint64(), [-(2**63), 0, 1], pa.int64(), pa.decimal128(20, 0)),
    "lists": ([[1]] * 3, pa.list_(pa.int32()), [[1]] * 3, pa.list_(pa.int64()), pa.list_(pa.int64())),
}


@pytest.mark.parametrize("name", IMAGE_COLUMNS)
def test_the_picture_is_found_by_every_usual_name(tmp_path, picture, score_log, name):
    told = [base64.b64encode(picture(number)).decode() for number in range(3)]
    pq.write_table(pa.table({"likes": [1, 2, 3], name: told}), tmp_path / "log.parquet")
    rows, _ = score_log(tmp_path / "log.parquet", tmp_path / "run")
    assert [row["error_code"] for row in rows] == [None] * 3


@pytest.mark.parametrize("kind", JOINED)
def test_schemas_are_joined(tmp_path, picture, score_log, kind):
    one, first, other, second, joined = JOINED[kind]
    left = pa.nulls(3) if one is None else pa.array(one, first)
    put(tmp_path / "log" / "a.parquet", part(picture, 0, x=left, only_a=["a"] * 3))
    turned = part(picture, 3, x=pa.array(other, second), only_b=[1] * 3)
    put(tmp_path / "log" / "b.parquet", turned.select(list(reversed(turned.column_names))))
    rows, _ = score_log(tmp_path / "log", tmp_path / "run")
    assert [row["error_code"] for row in rows] == [None] * 6
    schema = pq.read_schema(tmp_path / "run" / "shards" / "shard-000000.parquet")
    assert schema.field("x").type == joined
    for column in (one, other) if kind in ("signs", "widths", "lists") else ():
        told = [row["x"] for row in (rows[:3] if column is one else rows[3:])]
        assert told == column
    assert [row["only_a"] for row in rows] == ["a"] * 3 + [None] * 3
    assert [row["only_b"] for row in rows] == [None] * 3 + [1] * 3


def test_types_that_nothing_joins_are_named(tmp_path, picture):
    put(tmp_path / "log" / "a.parquet", part(picture, 0, x=[1] * 3))
    put(tmp_path / "log" / "b.parquet", part(picture, 3, x=["a"] * 3))
    with pytest.raises(InputError, match=r"b.parquet: column x: is string, in a.parquet it is int64"):
        make_plan([tmp_path / "log"], Settings())


def test_without_ids_rows_are_called_by_file_and_place(tmp_path, picture, score_log):
    for number in range(2):
        put(tmp_path / "log" / f"{number}.parquet", part(picture, 6 * number, 6, generation_id=None))
    rows, _ = score_log(tmp_path / "log", tmp_path / "run")
    assert [row["generation_id"] for row in rows] == [
        f"{file}.parquet#{row}" for file in range(2) for row in range(6)
    ]


def test_a_delta_table_is_its_live_files(tmp_path, picture, score_log):
    table = tmp_path / "table"
    for number in range(4):
        put(table / f"part-{number}.parquet", part(picture, 3 * min(number, 2)))
    commits = [
        [{"add": {"path": "part-0.parquet"}}, {"add": {"path": "part-1.parquet"}}, {"metaData": {}}],
        [{"add": {"path": "part-2.parquet"}}, {"add": {"path": "part-3.parquet"}}],
        [{"remove": {"path": "part-2.parquet"}}, {"commitInfo": {}}],
    ]
    (table / "_delta_log").mkdir()
    for number, actions in enumerate(commits):
        text = "\n".join(json.dumps(action) for action in actions)
        (table / "_delta_log" / f"{number:020d}.json").write_text(text)
    rows, summary = score_log(table, tmp_path / "run")
    assert [row["generation_id"] for row in rows] == [f"g{number}" for number in range(9)]
    assert summary["ignored"]["a file that the table's log has removed"] == 1


@pytest.mark.parametrize("line", ["[]", "5", '{"add": [1]}', '{"add": {"path": 5}}', "[" * 100_000])
def test_a_line_of_a_table_log_that_is_no_action_is_told(tmp_path, line):
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log" / f"{0:020d}.json").write_text(line)
    with pytest.raises(InputError, match="its _delta_log cannot be read"):
        live_files(tmp_path, "log")


def test_duckdb(tmp_path, picture, score_log):
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb")
    source = part(picture, 0, 8, prompt=["a cat"] * 8, day=["01", "02"] * 4)
    ids = [str(uuid.UUID(int=number)) for number in range(8)]
    source = source.set_column(0, "generation_id", pa.array(ids))
    base = duckdb.connect()
    base.register("source", source)
    base.execute(
        "copy (select generation_id::uuid as generation_id, image, prompt, day, now() as at, {'a': [1, 2]} as nested, "
        "map {'k': 1} as facts, 1.5::decimal(10, 2) as price from source) "
        f"to '{tmp_path / 'log'}' (format parquet, partition_by (day))"
    )
    rows, _ = score_log(tmp_path / "log", tmp_path / "run")
    assert sorted(row["generation_id"] for row in rows) == ids
    assert {row["day"] for row in rows} == {"01", "02"}
    assert {row["error_code"] for row in rows} == {None}
    assert rows[0]["nested"] == {"a": [1, 2]}


def test_polars(tmp_path, picture, score_log):
    polars = pytest.importorskip("polars", reason="needs polars")
    frame = polars.DataFrame(
        {
            "generation_id": [f"g{number}" for number in range(6)],
            "image": [picture(number) for number in range(6)],
            "prompt": polars.Series(["a cat", None] * 3, dtype=polars.Categorical),
            "tags": [["a"], [], ["b"]] * 2,
            "facts": [{"seed": number} for number in range(6)],
        }
    )
    frame.write_parquet(tmp_path / "log.parquet", row_group_size=2)
    frame.write_ipc(tmp_path / "log.arrow")
    frame.write_ipc(tmp_path / "packed.arrow", compression="zstd")
    for name in ("log.parquet", "log.arrow", "packed.arrow"):
        rows, _ = score_log(tmp_path / name, tmp_path / f"run-{name}")
        assert [(row["prompt_used"], row["tags"]) for row in rows[:2]] == [("a cat", ["a"]), (None, [])]
        assert {row["error_code"] for row in rows} == {None}
        assert rows[5]["facts"] == {"seed": 5}


def test_pandas(tmp_path, picture, score_log):
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame(
        {
            "image": [picture(number) for number in range(4)],
            "prompt": ["a", None, float("nan"), "b"],
            "seed": [1, None, 3, 4],
        },
        index=pandas.Index(["w", "x", "y", "z"], name="generation_id"),
    )
    frame.to_parquet(tmp_path / "log.parquet")
    rows, _ = score_log(tmp_path / "log.parquet", tmp_path / "run")
    assert [row["generation_id"] for row in rows] == ["w", "x", "y", "z"]
    assert [row["prompt_used"] for row in rows] == ["a", None, None, "b"]
