"""Law 2: no value that a row can hold ends a run. Each is an error row or a working row."""

import base64
import datetime
import decimal
import json
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.batch.plan import dry_run, make_plan
from attributary.batch.report_data import gather
from attributary.batch.settings import Columns, Settings
from attributary.errors import InputError

COUNT = 3


def table(picture, **columns):
    there = {
        "generation_id": [f"g{number}" for number in range(COUNT)],
        "image": pa.array([picture(number) for number in range(COUNT)], pa.binary()),
        "prompt": ["a cat"] * COUNT,
    }
    return pa.table({name: value for name, value in {**there, **columns}.items() if value is not None})


def invalid_text(kind=None):
    raw = pa.array([b"ok", b"\xff\xfe", b"\xed\xa0\x80"], pa.binary())
    return pa.Array.from_buffers(kind or pa.string(), COUNT, raw.buffers())


PICTURES = {
    "views": lambda data: pa.array(data, pa.binary_view()),
    "large": lambda data: pa.array(data, pa.large_binary()),
    "dictionary": lambda data: pa.array(data).dictionary_encode(),
    "struct": lambda data: pa.array([{"bytes": value, "path": "x.png"} for value in data]),
    "struct of bytes alone": lambda data: pa.array([{"bytes": value} for value in data]),
    "list": lambda data: pa.array([[value] for value in data]),
    "list of structs": lambda data: pa.array([[{"bytes": value, "path": None}] for value in data]),
    "large list": lambda data: pa.array([[value] for value in data], pa.large_list(pa.binary())),
    "base64": lambda data: pa.array([base64.b64encode(value).decode() for value in data]),
    "base64 for addresses": lambda data: pa.array(
        [base64.urlsafe_b64encode(value).decode().rstrip("=") for value in data]
    ),
    "base64 in lines": lambda data: pa.array([base64.encodebytes(value).decode() for value in data]),
    "base64 as bytes": lambda data: pa.array([base64.b64encode(value) for value in data]),
    "data": lambda data: pa.array(
        ["data:image/png;base64," + base64.b64encode(value).decode() for value in data]
    ),
    "data in views": lambda data: pa.array(
        ["data:;base64," + base64.b64encode(value).decode() for value in data], pa.string_view()
    ),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_in_every_kind_of_column(tmp_path, picture, score_log, kind):
    column = PICTURES[kind]([picture(number) for number in range(COUNT)])
    pq.write_table(table(picture, image=column), tmp_path / "log.parquet")
    rows, _ = score_log(tmp_path / "log.parquet", tmp_path / "run")
    assert [row["error_message"] for row in rows] == [None] * COUNT
    # A picture is kept nowhere.
    assert all(row.get("image") is None for row in rows)


def test_pictures_that_are_none(tmp_path, picture, score_log):
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [
        None,
        {"bytes": None, "path": None},
        {"bytes": b"", "path": None},
        {"bytes": None, "path": "hf://datasets/u/d@main/0.png"},
        {"bytes": None, "path": "zip://0.png::x.zip"},
        {"bytes": None, "path": "https://e.invalid/x"},
        {"bytes": b"\0", "path": "x"},
        {"bytes": picture(0), "path": "hf://x"},
    ]
    pq.write_table(pa.table({"image": pa.array(cells, struct)}), tmp_path / "a.parquet")
    lists = pa.array([[], None, [cells[-1], cells[-1]], [None], [cells[-1]]], pa.list_(struct))
    pq.write_table(pa.table({"image": lists}), tmp_path / "b.parquet")
    texts = [
        "",
        "data:,x",
        "data:image/png;base64,!!",
        "/9j/" + "A" * 60,
        "\u202e",
        "nonsense://x",
        "//",
        "s3://",
        "http://[",
        "a" * 9000,
    ]
    pq.write_table(pa.table({"image": texts}), tmp_path / "c.parquet")
    for name, fine in (("a", [7]), ("b", [4]), ("c", [])):
        rows, _ = score_log(tmp_path / f"{name}.parquet", tmp_path / f"run-{name}")
        assert [number for number, row in enumerate(rows) if row["error_code"] is None] == fine
        assert {row["error_field"] for row in rows} <= {"image", None}


@pytest.mark.parametrize("column", ["prompt", "generation_id", "model_id", "note"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_text_that_is_no_unicode(tmp_path, picture, score_log, column, kind):
    value = (
        invalid_text()
        if kind == pa.string()
        else invalid_text().cast(pa.binary()).cast(pa.large_binary()).view(kind)
    )
    pq.write_table(table(picture, **{column: value}), tmp_path / "log.parquet")
    rows, _ = score_log(tmp_path / "log.parquet", tmp_path / "run")
    if column == "note":
        assert [row["note"] for row in rows] == ["ok", "\\xff\\xfe", "\\xed\\xa0\\x80"]
    else:
        assert [row["error_field"] for row in rows] == [None, column, column]
    # The report reads every value.
    gather(tmp_path / "run")


IDS = {
    "uuid": (
        pa.array([uuid.UUID(int=number).bytes for number in range(3)], pa.uuid()),
        str(uuid.UUID(int=1)),
    ),
    "fixed": (
        pa.array([uuid.UUID(int=number).bytes for number in range(3)], pa.binary(16)),
        str(uuid.UUID(int=1)),
    ),
    "bytes that are text": (pa.array([b"a", b"b", b"c"]), "b"),
    "bytes that are none": (pa.array([b"\xff1", b"\xff2", b"\xff3"]), "ff32"),
    "views": (pa.array(["a", "b", "c"], pa.string_view()), "b"),
    "whole decimals": (pa.array([decimal.Decimal(number) for number in range(3)], pa.decimal128(38, 0)), "1"),
    "large": (pa.array([2**64 - 1 - number for number in range(3)], pa.uint64()), str(2**64 - 2)),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids(tmp_path, picture, score_log, kind):
    pq.write_table(table(picture, generation_id=IDS[kind][0]), tmp_path / "log.parquet")
    rows, _ = score_log(tmp_path / "log.parquet", tmp_path / "run")
    assert rows[1]["generation_id"] == IDS[kind][1]
    assert [row["error_code"] for row in rows] == [None] * COUNT


def test_bytes_are_texts_where_texts_are_wanted(tmp_path, picture, score_log):
    pq.write_table(
        table(picture, prompt=pa.array([b"a cat", None, b"\xff"]), model_id=pa.array([b"m"] * COUNT)),
        tmp_path / "log.parquet",
        store_schema=False,
    )
    rows, _ = score_log(tmp_path / "log.parquet", tmp_path / "run")
    assert [(row["prompt_used"], row["model_id"], row["error_field"]) for row in rows] == [
        ("a cat", "m", None), (None, "m", None), (None, "m", "prompt"),
    ]  # fmt: skip


def test_every_type_passes_through(tmp_path, picture, score_log):
    extra = {
        "ts_tz": pa.array([datetime.datetime(2024, 1, 1)] * COUNT, pa.timestamp("us", "Europe/Berlin")),
        "ts_ns": pa.array([1, None, np.iinfo(np.int64).max], pa.timestamp("ns")),
        "nan": pa.array([np.nan, np.inf, None], pa.float64()),
        "dec": pa.array([decimal.Decimal("1.5")] * COUNT, pa.decimal256(50, 10)),
        "time": pa.array([datetime.time(1)] * COUNT, pa.time64("us")),
        "map": pa.array([[("a", 1)]] * COUNT, pa.map_(pa.string(), pa.int32())),
        "nest": pa.array([{"a": {"b": [1, 2]}}, None, {"a": None}]),
        "fsl": pa.array([[1.0, 2.0]] * COUNT, pa.list_(pa.float32(), 2)),
        "lv": pa.array([["a"], None, []], pa.large_list(pa.string())),
        "sv": pa.array(["x", None, ""], pa.string_view()),
        "bv": pa.array([b"x", None, b"\xff"], pa.binary_view()),
        "list_sv": pa.array([["x"], None, [None]], pa.list_(pa.string_view())),
        "struct_sv": pa.array([{"a": "x"}, None, {"a": None}], pa.struct([("a", pa.string_view())])),
        "list_view": pa.array([[1], None, []], pa.list_view(pa.int32())),
        "dict": pa.array(["x"] * COUNT).dictionary_encode(),
        "list_dict": pa.ListArray.from_arrays(
            pa.array([0, 1, 2, 3]), pa.array(["x", "y", "x"]).dictionary_encode()
        ),
        "bad_text": invalid_text(),
        "bad_list": pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), invalid_text()),
        "bad_struct": pa.StructArray.from_arrays([invalid_text()], ["a"]),
        "nulls": pa.nulls(COUNT),
        "f16": pa.array(np.zeros(COUNT, np.float16)),
        "a.b": [1] * COUNT,
        "x y/%": ["z"] * COUNT,
        "json": pa.array(['{"a":1}'] * COUNT, pa.json_()),
        "uuid": pa.array([uuid.UUID(int=1).bytes] * COUNT, pa.uuid()),
    }
    pq.write_table(table(picture, **extra), tmp_path / "log.parquet")
    rows, _ = score_log(tmp_path / "log.parquet", tmp_path / "run")
    assert [row["error_code"] for row in rows] == [None] * COUNT
    assert set(extra) <= set(rows[0])
    assert [row["list_view"] for row in rows] == [[1], None, []]
    assert [row["list_dict"] for row in rows] == [["x"], ["y"], ["x"]]
    assert [row["bad_list"] for row in rows][:2] == [["ok"], ["\\xff\\xfe"]]
    assert [row["bad_struct"] for row in rows][:2] == [{"a": "ok"}, {"a": "\\xff\\xfe"}]
    assert rows[0]["nest"] == {"a": {"b": [1, 2]}}
    assert [row["struct_sv"] for row in rows] == [{"a": "x"}, None, {"a": None}]
    assert rows[0]["uuid"] == uuid.UUID(int=1)


def test_a_field_of_a_struct_by_its_dotted_name(tmp_path, picture, score_log):
    request = pa.array([{"prompt": "a cat", "id": "r1"}, None, {"prompt": None, "id": "r3"}])
    pq.write_table(table(picture, prompt=None, request=request), tmp_path / "log.parquet")
    rows, _ = score_log(tmp_path / "log.parquet", tmp_path / "run", columns=Columns(prompt="request.prompt"))
    assert [row["prompt_used"] for row in rows] == ["a cat", None, None]


def test_texts_beside_pictures(tmp_path, picture, score_log):
    place = tmp_path / "log"
    place.mkdir()
    texts = {
        "a.json": b"\xef\xbb\xbf" + json.dumps({"prompt": "bom"}).encode(),
        "b.json": b'{"prompt": "\\ud800 half"}',
        "c.json": b"[" * 100_000,
        "d.txt": "mark".encode("utf-16"),
        "e.txt": b"\xef\xbb\xbfbom",
        "f.txt": b"\xff\xfe\xff",
        "g.json": b'{"model_id": "\\udfff", "prompt": "x"}',
        "h.json": b'{"prompt": NaN, "caption": {"a": 1e999}}',
        "i.txt": b"",
        "j.json": b"",
    }
    for number, (name, data) in enumerate(texts.items()):
        (place / name).write_bytes(data)
        (place / f"{name[0]}.png").write_bytes(picture(number))
    rows, _ = score_log(place, tmp_path / "run")
    told = {row["generation_id"][-5]: (row["prompt_used"], row["error_field"]) for row in rows}
    assert told == {
        "a": ("bom", None), "b": (None, "prompt"), "c": (None, "prompt"), "d": ("mark", None), "e": ("bom", None),
        "f": (None, "prompt"), "g": (None, "model_id"), "h": (None, None), "i": (None, None), "j": (None, "prompt"),
    }  # fmt: skip


def test_arrow_files_are_not_believed(tmp_path, picture):
    """Offsets that lead out of a file's buffers would be read by Arrow; in a log they are damage, named by row."""
    made = table(picture, note=pa.array([["a"], ["b"], ["c"]]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    data = sink.getvalue().to_pybytes()
    offsets = np.array([0, 5, 10, 15], np.int32).tobytes()
    assert data.count(offsets) >= 1
    (tmp_path / "log.arrow").write_bytes(
        data.replace(offsets, np.array([0, 5, 2**30, -9], np.int32).tobytes())
    )
    with pytest.raises(InputError, match=r"log\.arrow"):
        dry_run(make_plan([tmp_path / "log.arrow"], Settings()))


@pytest.mark.parametrize(
    "column",
    [
        pa.UnionArray.from_sparse(
            pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])]
        ),
        pa.array([pa.MonthDayNano([1, 2, 3])] * COUNT),
        pa.array([{}] * COUNT, pa.struct([])),
    ],
    ids=["union", "interval", "struct of nothing"],
)
def test_a_column_that_parquet_cannot_hold_is_refused_before_any_work(picture, tmp_path, score_log, column):
    """It ended a run with a traceback at its first shard, after the shard had been scored."""
    log = table(picture, other=column)
    with pa.ipc.new_file(str(tmp_path / "log.arrow"), log.schema) as file:
        file.write_table(log)
    with pytest.raises(InputError, match=r"column other: .* which Parquet cannot hold"):
        make_plan([tmp_path / "log.arrow"], Settings())
    rows, _ = score_log(tmp_path / "log.arrow", tmp_path / "run", pass_through=("prompt",))
    assert [row["error_code"] for row in rows] == [None] * COUNT
