"""A log row reads nothing of this machine but the log's own directory and what the operator allows."""

import hashlib
import json
import os
import socket
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from attributary.batch.pictures import Access, picture_of
from attributary.batch.rows import Row
from attributary.batch.settings import Columns
from attributary.cli.score import score_command
from attributary.errors import InvalidArgumentError


@pytest.fixture
def listener():
    """A service of this machine's inside, and what it was sent."""
    hits = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(20)

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                hits.append("connect")
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], hits


def test_paths_lead_nowhere_but_the_log(tmp_path, picture, score_log):
    log = tmp_path / "log"
    (log / "sub").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(picture(0))
    (log / "in.png").write_bytes(picture(1))
    (log / "link.png").symlink_to(tmp_path / "outside.png")
    (log / "passwd").symlink_to("/etc/passwd")
    (log / "etc").symlink_to("/etc")
    os.mkfifo(log / "fifo")
    uris = {
        "in": "in.png", "in_again": "sub/../in.png", "in_absolute": str(log / "in.png"),
        "in_uri": (log / "in.png").as_uri(),
        "up": "../outside.png", "passwd": "../../../../../../etc/passwd", "absolute": "/etc/passwd",
        "uri": "file:///etc/passwd", "host": "file://127.0.0.1/etc/passwd", "link": "link.png", "link_passwd": "passwd",
        "link_directory": "etc/passwd", "fifo": "fifo", "zero": "/dev/zero", "environ": "/proc/self/environ",
        "directory": "sub", "nul": "a\0b", "stdin": "/dev/stdin", "home": "~/x", "root": "/", "dots": "..",
        "quoted": "file:///%2e%2e/etc/passwd", "uppercase": "FILE:///etc/passwd",
    }  # fmt: skip
    pq.write_table(pa.table({"generation_id": list(uris), "image": list(uris.values())}), log / "log.parquet")
    rows, _ = score_log(log / "log.parquet", tmp_path / "run")
    fine = {row["generation_id"] for row in rows if row["error_code"] is None}
    assert fine == {"in", "in_again", "in_absolute", "in_uri"}
    for row in rows:
        if row["error_code"]:
            assert (row["error_code"], row["error_field"], row["image_sha256"]) == (
                "INVALID_ARGUMENT",
                "image",
                None,
            )
    outside = hashlib.sha256(picture(0)).hexdigest()
    rows, _ = score_log(log / "log.parquet", tmp_path / "run-2", access=Access((str(tmp_path),)))
    allowed = {row["generation_id"]: row["image_sha256"] for row in rows if row["error_code"] is None}
    assert set(allowed) == fine | {"up", "link"}
    assert allowed["up"] == allowed["link"] == outside


@pytest.mark.parametrize(
    "scheme", ["s3", "gs", "abfs", "abfss", "hdfs", "viewfs", "http", "https", "ftp", "mock", "hf", "zip"]
)
def test_uris_reach_nothing(listener, scheme, tmp_path, picture, score_log):
    port, hits = listener
    pq.write_table(
        pa.table(
            {
                "generation_id": ["a", "b", "c"],
                "image": [
                    f"{scheme}://ak:sk@bucket/k.png?endpoint_override=127.0.0.1:{port}&scheme=http&allow_bucket_creation=true",
                    f"{scheme}://127.0.0.1:{port}/x.png",
                    "in.png",
                ],
            }
        ),
        tmp_path / "log.parquet",
    )
    (tmp_path / "in.png").write_bytes(picture(0))
    rows, _ = score_log(tmp_path / "log.parquet", tmp_path / "run")
    assert [row["error_code"] for row in rows] == ["INVALID_ARGUMENT", "INVALID_ARGUMENT", None]
    assert all("is not allowed; --allow-uri" in row["error_message"] for row in rows[:2])
    assert hits == []


def test_what_is_allowed_is_a_scheme_and_a_host(listener):
    port, hits = listener
    access = Access(uris=("s3://logs/pictures?region=eu-west-1",))
    for uri, message in (
        ("s3://other/pictures/a.png", "is not allowed"),
        ("s3://logs/private/a.png", "is not allowed"),
        ("s3://logs/pictures/../private/a.png", "is not allowed"),
        ("s3://logs/pictures/%2e%2e/private/a.png", "is not allowed"),
        ("gs://logs/pictures/a.png", "is not allowed"),
        (
            f"s3://logs/pictures/a.png?endpoint_override=127.0.0.1:{port}&scheme=http",
            "no options and no keys",
        ),
        ("s3://ak:sk@logs/pictures/a.png", "no options and no keys"),
        ("s3://[bad/a.png", "is no URI"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            picture_of(Row("g", uri=uri, base="/nowhere"), 1000, access)
    assert hits == []
    for wrong in ("s3", "hf://datasets", "http://host", "file:///", "s3://"):
        with pytest.raises(InvalidArgumentError, match="allow_uri"):
            Access(uris=(wrong,))


def test_texts_beside_pictures_are_held_to_the_same(tmp_path, picture, score_log):
    place = tmp_path / "log"
    place.mkdir()
    (tmp_path / "secret.txt").write_text("TOP SECRET")
    (place / "a.png").write_bytes(picture(0))
    (place / "a.txt").symlink_to(tmp_path / "secret.txt")
    (place / "b.png").symlink_to("/etc/passwd")
    rows, _ = score_log(place, tmp_path / "run")
    assert [row["error_field"] for row in rows] == ["prompt", "image"]
    assert "SECRET" not in str(rows)


def test_the_command_says_what_is_allowed(tmp_path, picture):
    (tmp_path / "log").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(picture(0))
    pq.write_table(pa.table({"path": ["../out/a.png"]}), tmp_path / "log" / "log.parquet")

    def errors(*given):
        told = CliRunner().invoke(score_command, [str(tmp_path / "log"), "--dry-run", "--json", *given])
        assert told.exit_code == 0, told.output
        return len(json.loads(told.output)["error_rows"])

    assert errors() == 1
    assert errors("--image-root", str(tmp_path / "out")) == 0
    assert errors("--allow-uri", "s3://bucket") == 1


def test_a_path_is_found_as_another_system_wrote_it(tmp_path, picture, score_log):
    log = tmp_path / "log"
    (log / "sub").mkdir(parents=True)
    (log / "sub" / "a.png").write_bytes(picture(0))
    (log / "e\u0301.png").write_bytes(picture(1))
    (log / " b.png").write_bytes(picture(2))
    (tmp_path / "outside.png").write_bytes(picture(3))
    uris = [
        "sub\\a.png",
        ".\\sub\\a.png ",
        "\u00e9.png",
        "e\u0301.png",
        " b.png",
        "..\\outside.png",
        "c\\gone.png",
    ]
    pq.write_table(pa.table({"image": uris}), log / "log.parquet")
    rows, _ = score_log(log / "log.parquet", tmp_path / "run")
    shown = [hashlib.sha256(picture(number)).hexdigest() for number in (0, 0, 1, 1, 2)]
    assert [row["image_sha256"] for row in rows] == [*shown, None, None]
    assert [row["error_code"] for row in rows[5:]] == ["INVALID_ARGUMENT"] * 2


def test_pictures_that_rows_name_in_any_way_are_not_called_unnamed(tmp_path, picture, score_log):
    log = tmp_path / "log"
    log.mkdir()
    for name in ("a b.png", "c.png", "d.png", "e.png"):
        (log / name).write_bytes(picture(0))
    uris = [(log / "a b.png").as_uri(), ".\\c.png", "d.png", "nul\0.png"]
    pq.write_table(pa.table({"image": uris}), log / "log.parquet")
    _, summary = score_log(log, tmp_path / "run", columns=Columns(image="image"))
    assert summary["skipped"] == {"a picture that no table names": 1}
