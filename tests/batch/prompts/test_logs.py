"""Law 6 for whole logs: sidecars, tables, img2dataset, DiffusionDB, Hugging Face; --prompt-from, columns and counts."""

import csv
import io
import json
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from attributary.batch.picture_tables import prompt_in
from attributary.batch.plan import dry_run, make_plan, preview_lines
from attributary.batch.settings import Settings
from attributary.errors import InputError

TEXT = "a (red:1.3) cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler"


def with_text(data, text):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", text)
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def told(rows):
    return [(row["prompt_used"], row["prompt_source"]) for row in rows]


def put(place, files):
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return place


def test_sidecars_of_every_kind(tmp_path, picture, score_log):
    place = put(
        tmp_path / "log",
        {f"{name}.png": picture(number) for number, name in enumerate("abcdefg")}
        | {"a.txt": TEXT, "b.caption": "a dog", "c.json": json.dumps({"prompt": "a house", "negative_prompt": "x"}),
           "d.png.txt": "a tree", "e.png.json": json.dumps({"positive_prompt": "a sun"}), "f.TXT": "a moon"},
    )  # fmt: skip
    rows, summary = score_log(place, tmp_path / "run")
    assert told(rows) == [
        ("a red cat", "txt"), ("a dog", "caption"), ("a house", "json"), ("a tree", "txt"), ("a sun", "json"),
        ("a moon", "txt"), (None, None),
    ]  # fmt: skip
    assert rows[0]["prompt_original"] == TEXT
    assert rows[0]["prompt"] == "a red cat"
    assert rows[1]["prompt_original"] is None
    assert summary["prompts"] == {"rows": 6, "by_source": {"caption": 1, "json": 2, "txt": 3}}
    assert "skipped" in summary
    assert summary["skipped"] == {}


def test_order_of_places(tmp_path, picture, score_log):
    place = put(tmp_path / "log", {"a.png": with_text(picture(0), TEXT), "a.txt": "a dog"})
    for order, expected in (
        (("column", "sidecar", "table", "picture"), ("a dog", "txt")),
        (("picture", "sidecar"), ("a red cat", "a1111")),
        (("picture",), ("a red cat", "a1111")),
        (("sidecar",), ("a dog", "txt")),
        (("table",), (None, None)),
        ((), (None, None)),
    ):
        rows, _ = score_log(place, tmp_path / f"run-{len(order)}-{expected[1]}", prompt_from=order)
        assert told(rows) == [expected]
        assert rows[0]["has_prompt"] == (expected[0] is not None)


@pytest.mark.parametrize("nothing", ["nan", " NaN ", "None", "null", "<NA>", "\\N"])
def test_what_programs_write_for_no_prompt_is_none(tmp_path, picture, score_log, nothing):
    log = {
        "image": [with_text(picture(0), TEXT), picture(1), picture(2)],
        "prompt": [nothing, nothing, "none"],
    }
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    rows, summary = score_log(tmp_path / "log.parquet", tmp_path / "run")
    assert told(rows) == [("a red cat", "a1111"), (None, None), ("none", "column")]
    assert [row["has_prompt"] for row in rows] == [True, False, True]
    assert summary["prompts"] == {"rows": 2, "by_source": {"a1111": 1, "column": 1}}
    assert prompt_in({"prompt": nothing, "caption": "a red cat"}) == "a red cat"


def test_texts_of_pictures_in_tables(tmp_path, picture, score_log):
    table = {
        "image": [with_text(picture(0), TEXT), with_text(picture(1), TEXT), picture(2)],
        "prompt": [None, "a (blue:1.2) dog", "  "],
    }
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    rows, summary = score_log(tmp_path / "log.parquet", tmp_path / "run")
    assert told(rows) == [("a red cat", "a1111"), ("a blue dog", "column"), (None, None)]
    # As in the log.
    assert [row["prompt"] for row in rows] == table["prompt"]
    assert summary["prompts"]["rows"] == 2


def test_diffusiondb(tmp_path, picture, score_log):
    files, lines = {}, []
    for part in (1, 2):
        names = [f"uuid-{part}-{number}.png" for number in range(3)]
        files |= {f"images/part-{part:06d}/{name}": picture(number) for number, name in enumerate(names)}
        if part == 1:
            facts = {name: {"p": f"prompt of {name}", "se": 1, "c": 7.0} for name in names}
            files[f"images/part-{part:06d}/part-{part:06d}.json"] = json.dumps(facts)
        lines += [{"image_name": name, "prompt": f"prompt of {name}", "part_id": part} for name in names]
    place = put(tmp_path / "ddb", files)
    lines += [{"image_name": f"elsewhere-{number}.png", "prompt": "x", "part_id": 3} for number in range(4)]
    pq.write_table(pa.Table.from_pylist(lines), place / "metadata.parquet")
    rows, summary = score_log(place, tmp_path / "run")
    assert [row["prompt_used"] for row in rows] == [
        f"prompt of {row['generation_id'].rpartition('/')[2]}" for row in rows
    ]
    assert summary["prompts"]["by_source"] == {"metadata.parquet": 3, "part.json": 3}
    assert summary["ignored"] == {"a line of a table whose picture is not here": 4}
    assert len(rows) == 6


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_imagefolder(tmp_path, picture, score_log, kind):
    place = put(tmp_path / "log", {f"train/{number}.png": picture(number) for number in range(4)})
    lines = [{"file_name": f"{number}.png", "text": f"text {number}"} for number in range(3)]
    table = place / "train" / f"metadata.{kind}"
    if kind == "jsonl":
        table.write_text("\ufeff" + "\n".join(json.dumps(line) for line in lines) + "\nbroken\n")
    elif kind == "csv":
        with table.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["file_name", "text"])
            writer.writeheader()
            writer.writerows(lines)
    else:
        pq.write_table(pa.Table.from_pylist(lines), table)
    rows, _ = score_log(place, tmp_path / "run")
    assert told(rows) == [*((f"text {number}", f"metadata.{kind}") for number in range(3)), (None, None)]


@pytest.fixture
def downloads(picture):
    """What img2dataset knows of six downloads, two of which failed."""
    lines = []
    for number in range(6):
        ok = number not in (2, 4)
        lines.append(
            {
                "url": f"http://x/{number}.jpg", "caption": f"caption {number}", "key": f"{number:09d}",
                "status": "success" if ok else "failed_to_download", "error_message": None if ok else "HTTP 404",
                "width": 64 if ok else None, "exif": "{}" if ok else None,
            }
        )  # fmt: skip
    return lines


def test_img2dataset_files(tmp_path, picture, score_log, downloads):
    place = tmp_path / "i2d"
    for line in downloads:
        if line["status"] == "success":
            named = {"jpg": picture(int(line["key"])), "txt": line["caption"], "json": json.dumps(line)}
            put(place / "00000", {f"{line['key']}.{kind}": data for kind, data in named.items()})
    pq.write_table(pa.Table.from_pylist(downloads), place / "00000.parquet")
    put(place, {"00000_stats.json": "{}"})
    rows, summary = score_log(place, tmp_path / "run")
    assert [row["prompt_used"] for row in rows] == [f"caption {number}" for number in (0, 1, 3, 5)]
    assert summary["skipped"] == {"a download that failed, by the table beside the pictures": 2}


def test_img2dataset_shards(tmp_path, picture, score_log, downloads):
    webdataset = pytest.importorskip("webdataset", reason="needs webdataset")
    place = tmp_path / "i2d"
    place.mkdir()
    with webdataset.TarWriter(str(place / "00000.tar")) as sink:
        for line in downloads:
            if line["status"] == "success":
                sink.write(
                    {
                        "__key__": line["key"],
                        "jpg": picture(int(line["key"])),
                        "txt": line["caption"],
                        "json": line,
                    }
                )
    pq.write_table(pa.Table.from_pylist(downloads), place / "00000.parquet")
    put(place, {"00000_stats.json": "{}"})
    rows, summary = score_log(place, tmp_path / "run")
    assert [row["prompt_used"] for row in rows] == [f"caption {number}" for number in (0, 1, 3, 5)]
    assert summary["skipped"] == {"a download that failed, by the table beside the pictures": 2}


def test_img2dataset_parquet(tmp_path, picture, score_log, downloads):
    for line in downloads:
        ok = line["status"] == "success"
        line["jpg"] = picture(int(line["key"])) if ok else None
        line["txt"] = line["caption"] if ok else None
    pq.write_table(pa.Table.from_pylist(downloads), tmp_path / "00000.parquet")
    rows, _ = score_log(tmp_path / "00000.parquet", tmp_path / "run")
    assert [row["generation_id"] for row in rows] == [line["key"] for line in downloads]
    assert [row["error_code"] is None for row in rows] == [line["status"] == "success" for line in downloads]
    assert [row["prompt_used"] for row in rows if not row["error_code"]] == [
        f"caption {number}" for number in (0, 1, 3, 5)
    ]
    assert [row["log_error_message"] for row in rows] == [line["error_message"] for line in downloads]


def test_hugging_face_datasets(tmp_path, picture, score_log):
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    lines = [
        {"image": {"bytes": picture(number), "path": f"{number}.png"}, "text": f"text {number}"}
        for number in range(5)
    ]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    made = datasets.Dataset.from_list(lines, features=features)
    (tmp_path / "export").mkdir()
    made.to_parquet(str(tmp_path / "export" / "train-00000-of-00001.parquet"))
    made.save_to_disk(str(tmp_path / "disk"))
    for name in ("export", "disk"):
        rows, summary = score_log(tmp_path / name, tmp_path / f"run-{name}")
        assert told(rows) == [(f"text {number}", "column") for number in range(5)]
        assert all("#" in row["generation_id"] for row in rows)
        assert summary["skipped"] == {}


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def framed(number, data):
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def record(facts):
    """A record as TensorFlow writes it; checksums are not looked at."""
    features = b""
    for name, value in facts.items():
        if isinstance(value, int):
            feature = framed(3, framed(1, varint(value)))
        elif value is None:
            feature = b""
        else:
            feature = framed(1, framed(1, value if isinstance(value, bytes) else value.encode()))
        features += framed(1, framed(1, name.encode()) + framed(2, feature))
    data = framed(1, features)
    return struct.pack("<Q4x", len(data)) + data + bytes(4)


def test_img2dataset_tfrecord(tmp_path, picture, score_log, downloads):
    place = tmp_path / "i2d"
    fine = [line for line in downloads if line["status"] == "success"]
    records = [record({**line, "jpg": picture(int(line["key"])), "txt": line["caption"]}) for line in fine]
    broken = struct.pack("<Q4x", 2) + b"\xff\xff" + bytes(4)
    put(place, {"00000.tfrecord": b"".join([*records, record({"key": "none"}), broken])})
    pq.write_table(pa.Table.from_pylist(downloads), place / "00000.parquet")
    rows, summary = score_log(place, tmp_path / "run", rows_per_shard=2)
    assert [row["generation_id"] for row in rows[:4]] == [f"00000/{line['key']}" for line in fine]
    assert [row["prompt_used"] for row in rows[:4]] == [line["caption"] for line in fine]
    assert [row["error_field"] for row in rows] == [None] * 4 + ["image", "metadata"]
    assert json.loads(rows[0]["metadata"])["url"] == "http://x/0.jpg"
    assert summary["skipped"] == {"a download that failed, by the table beside the pictures": 2}
    assert summary["ignored"] == {"a table about the pictures in the records": 1}
    assert preview_lines(dry_run(make_plan([place], Settings())))[0] == "1 input, 6 rows"
    (place / "00000.tfrecord").write_bytes(records[0][:-9])
    with pytest.raises(InputError, match=r"00000\.tfrecord: byte 0: is cut off"):
        make_plan([place], Settings())
