"""An append-only file of checksummed records: durable when `append` returns, repaired where a crash cut it short.

    file    magic, then records
    record  header: mark, length of the payload, sequence number, CRC-32 of these three
            payload
            SHA-256 of the digest before (zeros for the first), the header and the payload

The digests make a chain: a record that is changed, moved or taken out breaks everything behind it. What a crash leaves
at the end is told from damage by its shape: a record that stops early, or one whose end was never written and reads as
zeros. Anything else that does not add up is damage, and refused.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attributary.bundle.files import write_whole
from attributary.errors import BundleError, PreconditionError

MAGIC = b"ATTRJNL1"
# A record is held in memory twice; no honest one comes near this.
MAX_PAYLOAD = 1 << 30
_MARK = b"ATJR"
_HEADER = struct.Struct("<4sIQI")
_DIGEST = hashlib.sha256().digest_size
# What a disk writes at once: a crash of the machine leaves whole sectors of zeros.
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class End:
    """Where the sound part of a file ends, and what the next record follows on."""

    offset: int  # bytes
    sequence: int  # of the next record
    digest: bytes  # of the last record


START = End(len(MAGIC), 0, bytes(_DIGEST))


class DamageError(BundleError):
    """A journal that is not what was written; `offset` is where, in bytes, if one place is to blame."""

    def __init__(self, path: Path, what: str, offset: int | None = None) -> None:
        super().__init__(
            _name(path),
            f"{'' if offset is None else f'byte {offset}: '}{what}; this journal was damaged: restore it from a copy, "
            "since changes that were acknowledged would be lost without it",
        )
        self.offset = offset


class Reader:
    """Reads a journal that another process may be writing: each call of `more` goes on where the last one ended.

    A record that is being written, or was left unfinished by a crash, is left for later. Repairs nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = START
        self._seen: tuple[int, int, int] | None = None

    def more(self) -> list[bytes]:
        """Return the payloads that have come since the last call.

        A file that has not changed costs one `stat`. Raises FileNotFoundError, PreconditionError if it cannot be read,
        and DamageError, also if what was read before is not there any more.
        """
        try:
            stat = self.path.stat()
            seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if seen == self._seen:
                return []
            data = self._behind()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise cannot(self.path, "be read", error) from error
        # All of it or, where something is damaged, nothing: that is looked at again.
        found = list(_records(self.path, data, self.end))
        if found:
            self.end = found[-1][1]
        self._seen = seen
        return [payload for payload, _ in found]

    def back_to(self, end: End) -> None:
        """Forget what was read behind `end`."""
        self.end, self._seen = end, None

    def _behind(self) -> bytes:
        """What lies behind the records that were read."""
        with self.path.open("rb") as file:
            # The file appears whole, with its first record, so a short magic is no crash's doing.
            if file.read(len(MAGIC)) != MAGIC:
                raise DamageError(self.path, "is not a journal of this release", 0)
            if self.end.sequence:
                file.seek(self.end.offset - _DIGEST)
                if file.read(_DIGEST) != self.end.digest:
                    raise DamageError(self.path, "changes that were read before are gone", self.end.offset)
            return file.read()


def read(path: Path) -> tuple[list[bytes], End]:
    """Return the payloads of a journal's records and where they end; raises DamageError, PreconditionError."""
    reader = Reader(path)
    try:
        payloads = reader.more()
    except FileNotFoundError as error:
        raise cannot(path, "be read", error) from error
    if not payloads:
        raise DamageError(path, "the first record is missing", reader.end.offset)
    return payloads, reader.end


def _records(path: Path, data: bytes, end: End) -> Iterator[tuple[bytes, End]]:
    """Yield (payload, where it ends) of the records behind `end`, up to one that is unfinished."""
    base = end.offset
    while (start := end.offset - base) < len(data):
        if not any(data[start : start + 65_536]) and data.count(0, start) == len(data) - start:
            # Never written.
            return
        head = data[start : start + _HEADER.size]
        if len(head) < _HEADER.size:
            if not _MARK.startswith(head[: len(_MARK)]):
                raise DamageError(path, f"record {end.sequence} does not begin like one", end.offset)
            return
        mark, length, sequence, crc = _HEADER.unpack(head)
        if mark != _MARK or crc != zlib.crc32(head[:-4]) or length > MAX_PAYLOAD:
            raise DamageError(
                path, f"the header of record {end.sequence} does not match its checksum", end.offset
            )
        if sequence != end.sequence:
            raise DamageError(path, f"record {sequence} where {end.sequence} was due", end.offset)
        body = start + _HEADER.size
        stop = body + length + _DIGEST
        if stop > len(data):
            return
        digest = hashlib.sha256(end.digest + data[start : body + length]).digest()
        if digest != data[body + length : stop]:
            if stop == len(data) and _zeros_to_the_end(data, body, base):
                return
            raise DamageError(path, f"record {sequence} does not match its checksum", end.offset)
        end = End(base + stop, sequence + 1, digest)
        yield data[body : body + length], end


def _zeros_to_the_end(data: bytes, body: int, base: int) -> bool:
    """Whether the file ends in sectors of zeros that begin inside its last record; `data` begins at byte `base`."""
    last = len(data) - 1
    while last >= body and data[last] == 0:
        last -= 1
    first_sector = -(-(base + last + 1) // _SECTOR) * _SECTOR
    # The digest itself must be part of what is missing: thirty-two zeros are no digest.
    return first_sector <= base + len(data) - _DIGEST


class Log:
    """A journal being written, by one process at a time (the caller holds a lock)."""

    def __init__(self, path: Path, handle: int, end: End) -> None:
        self.path = path
        self._handle = handle
        self._end = end
        self._broken = ""

    @classmethod
    def create(cls, path: Path, payloads: list[bytes]) -> Log:
        """Make a journal that begins with these records; it appears whole. Raises PreconditionError."""
        end = START
        data = bytearray(MAGIC)
        for payload in payloads:
            framed, end = _framed(payload, end)
            data += framed
        try:
            write_whole(path, bytes(data))
            return cls(path, _open_at(path, end.offset), end)
        except OSError as error:
            raise cannot(path, "be made", error) from error

    @classmethod
    def open(cls, path: Path) -> tuple[Log, list[bytes]]:
        """Open a journal to go on with it, cutting off an unfinished last record; return it and its payloads.

        Raises DamageError, PreconditionError.
        """
        payloads, end = read(path)
        try:
            handle = _open_at(path, end.offset)
            if os.fstat(handle).st_size > end.offset:
                try:
                    os.ftruncate(handle, end.offset)
                    os.fsync(handle)
                except OSError:
                    os.close(handle)
                    raise
        except OSError as error:
            raise cannot(path, "be written", error) from error
        return cls(path, handle, end), payloads

    def append(self, payload: bytes) -> None:
        """Write a record; it is durable when this returns. Raises PreconditionError, and then it is not there.

        After a failure that could not be undone nothing more is accepted: only reading the file again tells what is
        in it.
        """
        if self._broken:
            raise PreconditionError(self.path.name, self._broken)
        if len(payload) > MAX_PAYLOAD:
            raise PreconditionError(
                self.path.name, f"a record may have {MAX_PAYLOAD} bytes, got {len(payload)}"
            )
        framed, end = _framed(payload, self._end)
        try:
            _write(self._handle, framed)
        except OSError as error:
            self._undo()
            raise cannot(self.path, "be written", error) from error
        try:
            os.fdatasync(self._handle)
        except OSError as error:
            # The kernel may have dropped the pages and forgotten the error: a second try would prove nothing.
            self._undo()
            self._broken = "an earlier write could not be made durable; open the bundle again"
            raise cannot(self.path, "be made durable", error) from error
        self._end = end

    def lies_at(self, path: Path) -> bool:
        """Whether `path` is the file that is written: else what is appended would be found by nobody."""
        return lies_at(self._handle, path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def _undo(self) -> None:
        try:
            os.ftruncate(self._handle, self._end.offset)
            os.lseek(self._handle, self._end.offset, os.SEEK_SET)
            os.fsync(self._handle)
        except OSError:
            self._broken = "an earlier write failed halfway and could not be undone; open the bundle again"


def lies_at(handle: int, path: Path) -> bool:
    """Whether `path` is the file that is open as `handle`."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def cannot(path: Path, what: str, error: OSError) -> PreconditionError:
    """The error for a file that cannot be read or written."""
    return PreconditionError(_name(path), f"cannot {what}: {error.strerror or error}")


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _open_at(path: Path, offset: int) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    os.lseek(handle, offset, os.SEEK_SET)
    return handle


def _framed(payload: bytes, end: End) -> tuple[bytes, End]:
    head = struct.pack("<4sIQ", _MARK, len(payload), end.sequence)
    head += struct.pack("<I", zlib.crc32(head))
    digest = hashlib.sha256(end.digest + head + payload).digest()
    framed = head + payload + digest
    return framed, End(end.offset + len(framed), end.sequence + 1, digest)


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
