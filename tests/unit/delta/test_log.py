"""The file under a journal: what a crash leaves is repaired, what damage leaves is refused."""

import os
import struct
from itertools import pairwise

import pytest

from attributary.delta.journal import log
from attributary.delta.journal.log import DamageError, Log, Reader, read
from attributary.delta.journal.records import UnreadableError, decode
from attributary.errors import PreconditionError

PAYLOADS = [b"first", b"", b"x" * 700, bytes(range(256)) * 3, b"last one"]


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "one.log"
    journal = Log.create(found, PAYLOADS[:1])
    for payload in PAYLOADS[1:]:
        journal.append(payload)
    journal.close()
    return found


def ends(path):
    """Where each record ends, in bytes, and the magic before them."""
    head = log._HEADER.size + log._DIGEST
    sizes = [len(log.MAGIC), *(len(payload) + head for payload in PAYLOADS)]
    found = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    assert found[-1] == path.stat().st_size
    return found


def read_all(path):
    reader = Reader(path)
    return reader.more(), reader.end.offset < path.stat().st_size


def test_what_was_written_is_read(path):
    payloads, torn = read_all(path)
    assert payloads == PAYLOADS
    assert not torn
    assert read(path)[1].sequence == 5


def test_a_file_cut_anywhere_keeps_every_whole_record(path):
    data = path.read_bytes()
    bounds = ends(path)
    for size in range(bounds[1], len(data) + 1):
        path.write_bytes(data[:size])
        whole = sum(bound <= size for bound in bounds) - 1
        payloads, torn = read_all(path)
        assert payloads == PAYLOADS[:whole]
        assert torn == (size not in bounds)


def test_going_on_after_a_cut(path):
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    journal, payloads = Log.open(path)
    assert payloads == PAYLOADS[:4]
    journal.append(b"instead")
    journal.close()
    assert read(path)[0] == [*PAYLOADS[:4], b"instead"]


def test_every_flipped_bit_is_refused(path):
    data = bytearray(path.read_bytes())
    for place in range(len(data)):
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(DamageError, match=r"one\.log"):
            read(path)
        data[place] ^= 1 << place % 8


@pytest.mark.parametrize("change", ["removed", "swapped", "repeated", "foreign"])
def test_records_out_of_their_place_are_refused(path, tmp_path, change):
    data, bounds = path.read_bytes(), ends(path)
    parts = [data[start:stop] for start, stop in pairwise(bounds)]
    if change == "removed":
        del parts[2]
    elif change == "swapped":
        parts[1], parts[2] = parts[2], parts[1]
    elif change == "repeated":
        parts.insert(3, parts[2])
    else:
        other = Log.create(tmp_path / "other.log", [b"FIRST"])
        for payload in PAYLOADS[1:]:
            other.append(payload)
        other.close()
        stranger = (tmp_path / "other.log").read_bytes()
        parts[2] = stranger[bounds[2] : bounds[3]]
    path.write_bytes(data[: bounds[0]] + b"".join(parts))
    with pytest.raises(DamageError):
        read(path)


@pytest.mark.parametrize("behind", [1, 20, 511, 4096])
def test_zeros_behind_the_end_are_an_unfinished_record(path, behind):
    path.write_bytes(path.read_bytes() + bytes(behind))
    assert read_all(path) == (PAYLOADS, True)


def test_a_last_record_whose_end_was_never_written_is_unfinished(path):
    data = bytearray(path.read_bytes())
    start = len(data)
    framed, _ = log._framed(b"y" * 3000, read(path)[1])
    whole = data + framed
    for cut in range(-(-(start + 20) // 512) * 512, len(whole) - 32, 512):
        path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        assert read_all(path) == (PAYLOADS, True)
    # Zeros that do not reach the end are no crash's doing.
    path.write_bytes(whole[: start + 100] + bytes(600) + whole[start + 700 :])
    with pytest.raises(DamageError):
        read(path)


def test_a_write_that_stops_halfway_leaves_nothing(path, monkeypatch):
    journal, _ = Log.open(path)
    size = path.stat().st_size
    write = os.write

    def full(handle, data):
        if len(data) > 40:
            return write(handle, data[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log.os, "write", full)
    with pytest.raises(PreconditionError, match="No space left"):
        journal.append(b"z" * 90)
    monkeypatch.undo()
    assert path.stat().st_size == size
    journal.append(b"after")
    journal.close()
    assert read(path)[0] == [*PAYLOADS, b"after"]


def test_nothing_is_accepted_after_a_failed_flush(path, monkeypatch):
    journal, _ = Log.open(path)

    def broken(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(log.os, "fdatasync", broken)
    with pytest.raises(PreconditionError, match="made durable"):
        journal.append(b"lost")
    monkeypatch.undo()
    with pytest.raises(PreconditionError, match="open the bundle again"):
        journal.append(b"more")
    journal.close()
    assert read(path)[0] == PAYLOADS


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(PreconditionError, match="cannot be read"):
        read(tmp_path / "none.log")
    with pytest.raises(PreconditionError, match="cannot be made"):
        Log.create(tmp_path / "no" / "where.log", [b"a"])
    (tmp_path / "text.log").write_text("hello, this is no journal")
    with pytest.raises(DamageError, match="not a journal"):
        read(tmp_path / "text.log")


def test_a_reader_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "one.log"
    journal = Log.create(path, PAYLOADS[:1])
    reader = Reader(path)
    assert reader.more() == PAYLOADS[:1]
    for payload in PAYLOADS[1:]:
        assert reader.more() == []
        journal.append(payload)
        assert reader.more() == [payload]
    journal.close()


def test_a_reader_leaves_what_is_being_written_for_later(path):
    whole = path.read_bytes()
    framed, _ = log._framed(b"y" * 3000, read(path)[1])
    reader = Reader(path)
    reader.more()
    for size in (1, 15, 20, 1000, len(framed) - 1):
        path.write_bytes(whole + framed[:size])
        assert reader.more() == []
        assert reader.end.offset < path.stat().st_size
    path.write_bytes(whole + framed)
    assert reader.more() == [b"y" * 3000]
    assert reader.end.offset == path.stat().st_size


@pytest.mark.parametrize("change", ["shorter", "other", "damaged"])
def test_a_reader_says_when_what_it_read_is_gone(path, change):
    reader = Reader(path)
    reader.more()
    data, bounds = path.read_bytes(), ends(path)
    if change == "shorter":
        path.write_bytes(data[: bounds[-2]])
    elif change == "other":
        path.write_bytes(data[: bounds[-2]])
        journal, _ = Log.open(path)
        journal.append(b"next one")
        journal.close()
    else:
        path.write_bytes(data + b"x" * 90)
    for _ in range(2):
        with pytest.raises(DamageError):
            reader.more()
    # What is restored is gone on with.
    path.write_bytes(data)
    assert reader.more() == []


@pytest.mark.parametrize("said", [b"2222", b"null", b'"x"', b"[1]", b"[" * 100_000, b'{"kind":[]}'])
def test_a_sound_record_that_says_something_else_is_unreadable(said):
    """Found by fuzzing: JSON that is no object, or too deep."""
    with pytest.raises(UnreadableError):
        decode(struct.pack("<I", len(said)) + said, 4)
