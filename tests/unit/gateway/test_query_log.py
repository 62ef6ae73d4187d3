"""The query log: what it says, for how long, and what neither a full disk, a still one nor a clock takes from it."""

import errno
import fcntl
import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from attributary.attribution.types import Query
from attributary.errors import InvalidArgumentError
from attributary.gateway import query_log
from attributary.gateway.config import GatewayConfig
from attributary.gateway.query_log import QueryLog
from attributary.v1 import attribution_pb2 as pb


@pytest.mark.parametrize("prompts", [False, True])
def test_the_query_log_keeps_what_it_says_for_as_long_as_it_says(tmp_path, prompts):
    folder = tmp_path / "log"
    folder.mkdir()
    kept = [log_file(folder, ago).name for ago in range(1, 8)]
    for name in (*kept, log_file(folder, 8).name):
        (folder / name).touch()
    (folder / "mine.txt").touch()
    log = QueryLog(folder, 7, prompts)
    item = pb.AttributedItem(id=1, share=0.5, caption="a fox", creator="Ann")
    log.put(
        "ann",
        Query(image=b"picture", prompt="a secret"),
        pb.Attribution(items=[item], bundle_id="b", has_prompt=True),
    )
    log.close()
    today = folder / f"queries-{datetime.now(UTC).date()}.jsonl"
    text = today.read_text()
    line = json.loads(text)
    assert (line["caller"], line["items"], line["has_prompt"]) == ("ann", [[1, 0.5]], True)
    assert line.get("prompt") == ("a secret" if prompts else None)
    assert not {"fox", "Ann", "picture"} & set(text.replace('"', " ").split())
    assert len(line["image_sha256"]) == 64
    assert today.stat().st_mode & 0o077 == 0
    assert {path.name for path in folder.iterdir()} == {"mine.txt", today.name, *kept}


def test_a_clock_that_jumps_deletes_no_day_of_the_query_log_before_it_can_be_put_right(tmp_path, monkeypatch):
    log, since = QueryLog(tmp_path, 3, False), [0.0]
    monkeypatch.setattr(query_log, "monotonic", lambda: since[0])
    today = datetime.now(UTC)

    def write(days):
        log._write({"at": (today + timedelta(days=days)).isoformat()})
        return [days for days in range(-9, 999) if log_file(tmp_path, -days).exists()]

    assert [write(days) for days in (-3, -2, -1, 0)][-1] == [-3, -2, -1, 0]
    # The day that would have gone at midnight.
    assert write(900) == [-2, -1, 0, 900]
    since[0] = 40_000.0
    # Put right: what was old for a while begins anew.
    assert write(1) == [-2, -1, 0, 1, 900]
    since[0] = 50_000.0
    assert write(901)[-4:] == [0, 1, 900, 901]
    since[0] = 100_000.0
    assert write(902) == [900, 901, 902]
    log.close()


def test_a_query_log_whose_disk_stands_still_keeps_few_pictures_in_memory(tmp_path):
    log, picture = QueryLog(tmp_path, 7, False), b"x" * (16 << 20)
    with log_file(tmp_path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(20):
            log.put("ann", Query(image=picture), pb.Attribution())
        assert 14 <= log._left_out <= 16
    log.close()


def log_file(folder, days_ago=0):
    return folder / f"queries-{(datetime.now(UTC) - timedelta(days=days_ago)).date()}.jsonl"


def test_a_line_that_was_cut_short_spoils_no_other_and_is_counted(tmp_path, monkeypatch):
    # What a process left that was killed in the middle of a line.
    log_file(tmp_path).write_text('{"caller": "a')
    log, write, room = QueryLog(tmp_path, 7, False), os.write, [None, 20, 0, None]

    def short(handle, data):
        most = room.pop(0)
        if most == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[:most])

    monkeypatch.setattr(os, "write", short)
    for caller in ("bo", "cut", "lost", "di"):
        log.put(caller, Query(), pb.Attribution())
    log.close()
    lines = log_file(tmp_path).read_text().splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    assert [(line["caller"], line.get("left_out_before")) for line in whole] == [("bo", None), ("di", 2)]
    assert len(lines) == 4


def test_the_query_log_is_off_and_its_folder_must_be_writable(tmp_path):
    assert GatewayConfig().query_log is None
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgumentError, match="query_log"):
        QueryLog(tmp_path / "file" / "log", 1, False)
