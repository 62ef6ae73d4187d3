"""Readers: every kind of input gives the rows that it holds."""

import hashlib
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.batch.pictures import picture_of
from attributary.batch.plan import make_plan
from attributary.batch.rows import Row
from attributary.batch.run import shard_tables
from attributary.batch.settings import Columns, Settings
from attributary.errors import InputError, InvalidArgumentError, UnavailableError

MOST = 1 << 20


def rows_of(plan):
    rows = []
    for shard in plan.shards:
        reader = plan.reader(shard.file)
        rows += [row for batch in reader.batches(shard, 3) for row in batch.rows]
        reader.close()
    return rows


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def tar(tmp_path, picture):
    """20 samples; prompts in .txt or .json, names that need an extended header."""
    members = []
    for number in range(20):
        key = f"part/{number:05d}" if number % 4 else "very-long-" * 12 + str(number)
        members.append((f"{key}.png", picture(number)))
        if number % 2:
            members.append((f"{key}.txt", b"a red ellipse\n"))
        else:
            facts = {"prompt": "a blue rectangle", "model_id": "m2", "steps": 30}
            members.append((f"{key}.json", json.dumps(facts).encode()))
    return write_tar(tmp_path / "log-0.tar", members)


def test_tar_rows(tar, picture):
    plan = make_plan([tar], Settings(rows_per_shard=6))
    assert [shard.rows for shard in plan.shards] == [6, 6, 6, 2]
    assert len({shard.offset for shard in plan.shards}) == 4
    rows = rows_of(plan)
    assert [row.image for row in rows] == [picture(number) for number in range(20)]
    assert rows[5].generation_id == "log-0/part/00005"
    assert [row.prompt for row in rows[:2]] == ["a blue rectangle", "a red ellipse"]
    assert [row.model_id for row in rows[:2]] == ["m2", None]


def test_tar_scored_like_parquet(tar, tmp_path, run_score, picture):
    run_score(tar, tmp_path / "run")
    rows = [row for table in shard_tables(tmp_path / "run") for row in table.to_pylist()]
    assert json.loads(rows[0]["metadata"])["steps"] == 30
    assert rows[1]["metadata"] is None
    assert all(row["error_code"] is None for row in rows)
    assert rows[7]["image_sha256"] == hashlib.sha256(picture(7)).hexdigest()


@pytest.mark.parametrize("cut", [0.3, 0.62, 0.999])
def test_a_tar_that_is_cut_off_is_refused(tar, cut):
    data = tar.read_bytes()
    # Whole blocks, so that only the missing end tells.
    tar.write_bytes(data[: int(len(data) * cut) // 512 * 512] if cut < 0.9 else data.rstrip(b"\0"))
    with pytest.raises(InputError, match=r"log-0.tar"):
        make_plan([tar], Settings())


def test_a_tar_with_a_damaged_header_is_refused_rather_than_cut_short(tar):
    with tarfile.open(tar) as opened:
        places = [member.offset for member in opened]
    data = bytearray(tar.read_bytes())
    data[places[21] + 3] ^= 1
    tar.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged: no end of archive|cannot be read as a tar"):
        make_plan([tar], Settings())


def test_bad_samples_are_bad_rows(tmp_path, picture):
    path = write_tar(
        tmp_path / "t.tar",
        [
            ("a.png", picture(0)),
            ("b.txt", b"no picture"),
            ("c.png", picture(1)), ("c.json", b"[1"),
            ("d.png", picture(2)), ("d.txt", b"\xff\xfe\xff"),
            ("e.png", b"\0" * 3000),
        ],
    )  # fmt: skip
    from dataclasses import replace

    settings = Settings()
    settings = replace(settings, limits=replace(settings.limits, max_image_bytes=2000))
    rows = rows_of(make_plan([path], settings))
    told = [(row.problem.field, row.problem.message) if row.problem else None for row in rows]
    assert told[0] is None
    assert told[1] == ("image", "is missing from the sample")
    assert told[2][0] == "metadata"
    assert told[3][0] == "prompt"
    assert told[4] == ("image", "is 3000 bytes long; the limit is 2000 bytes")


def test_samples_that_are_torn_apart_are_repeated_ids(tmp_path, picture):
    path = write_tar(tmp_path / "t.tar", [("a.png", picture(0)), ("b.png", picture(1)), ("a.txt", b"late")])
    with pytest.raises(InputError, match=r"'t/a'"):
        make_plan([path], Settings())


def test_folder_rows(tmp_path, picture, run_score):
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name, number in (("b.png", 1), ("a.PNG", 0), ("deep/c.png", 2)):
        (folder / name).write_bytes(picture(number))
    (folder / "b.txt").write_text(" a red ellipse\n")
    (folder / "notes.doc").write_text("")
    run_score(folder, tmp_path / "run")
    (table,) = shard_tables(tmp_path / "run")
    assert table["generation_id"].to_pylist() == ["pictures/a.PNG", "pictures/b.png", "pictures/deep/c.png"]
    assert table["prompt"].to_pylist() == [None, "a red ellipse", None]
    assert table["has_prompt"].to_pylist() == [False, True, False]
    assert table["error_code"].null_count == 3


def test_a_changed_picture_of_a_folder_is_another_log(tmp_path, picture):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(0))
    before = make_plan([folder], Settings()).files[0].sha256
    (folder / "a.png").write_bytes(picture(1))
    assert make_plan([folder], Settings()).files[0].sha256 != before


def test_pictures_by_path_and_uri(tmp_path, picture, log_table, run_score):
    (tmp_path / "pictures").mkdir()
    places = []
    for number in range(4):
        path = tmp_path / "pictures" / f"{number} é.png"
        path.write_bytes(picture(number))
        places.append([f"pictures/{number} é.png", str(path), path.as_uri(), "pictures/none.png"][number])
    pq.write_table(log_table(0, 4, image=None, uri=places), tmp_path / "log.parquet")
    run_score(tmp_path / "log.parquet", tmp_path / "run")
    (table,) = shard_tables(tmp_path / "run")
    assert table["error_code"].to_pylist() == [None, None, None, "INVALID_ARGUMENT"]
    assert (
        table["error_message"].to_pylist()[3] == "pictures/none.png cannot be read: No such file or directory"
    )
    assert table["uri"].to_pylist() == places


def test_pictures_in_structs_dictionaries_and_large_types(tmp_path, picture, log_table):
    (tmp_path / "1.png").write_bytes(picture(1))
    struct = pa.array([{"bytes": picture(0), "path": "x"}, {"bytes": None, "path": "1.png"}, None])
    table = log_table(
        0, 3, image=None, picture=struct,
        prompt=pa.array(["a", None, "a"]).dictionary_encode(),
        generation_id=pa.array([3, 2, 1], pa.uint64()),
        model_id=pa.array(["m", "n", "m"], pa.large_string()),
    )  # fmt: skip
    pq.write_table(table, tmp_path / "log.parquet")
    rows = rows_of(make_plan([tmp_path / "log.parquet"], Settings(columns=Columns(image="picture"))))
    assert [row.generation_id for row in rows] == ["3", "2", "1"]
    assert [row.prompt for row in rows] == ["a", "", "a"]
    assert [row.model_id for row in rows] == ["m", "n", "m"]
    assert picture_of(rows[0], MOST) == picture(0)
    assert picture_of(rows[1], MOST) == picture(1)
    assert rows[2].problem.message == "is null"


def test_text_that_is_no_utf8_is_a_bad_row(tmp_path, log_table):
    wrong = pa.Array.from_buffers(pa.string(), 2, pa.array(["ab", "cd"]).buffers())
    raw = pa.array([b"\xff\xfe", b"ok"], pa.binary())
    wrong = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(log_table(0, 2, prompt=wrong), tmp_path / "log.parquet")
    rows = rows_of(make_plan([tmp_path / "log.parquet"], Settings()))
    assert rows[0].problem.field == "prompt"
    assert rows[1].prompt == "ok"


def test_columns_that_are_all_null_are_text(tmp_path, log_table):
    table = log_table(0, 2, prompt=pa.nulls(2), model_id=pa.nulls(2), note=pa.nulls(2))
    pq.write_table(table, tmp_path / "log.parquet")
    plan = make_plan([tmp_path / "log.parquet"], Settings())
    assert plan.passed.field("note").type == pa.string()
    assert [row.problem for row in rows_of(plan)] == [None, None]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "is no path"),
        ("a\0b", "is no path"),
        ("missing.png", "cannot be read: No such file"),
        ("pipe", "is not a file"),
        (".", "is not a file"),
        ("x" * 5000, "File name too long"),
        ("https://example.org/a.png", "https://example.org is not allowed"),
        ("nonsense://a", "nonsense://a is not allowed"),
        ("big.png", "is 300 bytes long; the limit is 200 bytes"),
    ],
)
def test_addresses_that_lead_nowhere_are_the_rows_fault(tmp_path, uri, message):
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big.png").write_bytes(bytes(300))
    with pytest.raises(InvalidArgumentError) as error:
        picture_of(Row("g", uri=uri, base=str(tmp_path)), 200)
    assert error.value.field == "image"
    assert message in error.value.message


def test_a_store_that_is_away_is_no_rows_fault(tmp_path, monkeypatch):
    import errno

    calls, pauses = [], []

    def away(path, flags):
        calls.append(path)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("attributary.batch.pictures.os.open", away)
    with pytest.raises(UnavailableError, match="after 4 attempts"):
        picture_of(Row("g", uri="a.png", base=str(tmp_path)), 200, pause=pauses.append)
    assert len(calls) == 4
    assert pauses == sorted(pauses)
    assert len(pauses) == 3
