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

from attributary.errors import BundleError, PreconditionError

MAGIC = b"ATTRJNL1"
# A record is held in memory twice; no honest one comes near this.
MAX_PAYLOAD = 1 << 30
_MARK = b"ATJR"
_HEADER = struct.Struct("<4sIQI")
_DIGEST = hashlib.sha256().digest_size
_FIRST = bytes(_DIGEST)
# What a disk writes at once: a crash of the machine leaves whole sectors of zeros.
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class End:
    """Where the sound part of a file ends, and what the next record follows on."""

    offset: int  # bytes
    sequence: int  # of the next record
    digest: bytes  # of the last record
    torn: bool  # whether an unfinished record lies behind


class DamageError(BundleError):
    """A journal that is not what was written; `offset` is where, in bytes."""

    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(
            f"{path.parent.name}/{path.name}",
            f"byte {offset}: {what}; this journal was damaged: restore it from a copy, since changes that were "
            "acknowledged would be lost without it",
        )
        self.offset = offset


def read(path: Path) -> tuple[list[bytes], End]:
    """Return the payloads of a journal's records and where they end; raises DamageError, PreconditionError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise cannot(path, "be read", error) from error
    # The file appears whole, with its first record, so a short magic is no crash's doing.
    if data[: len(MAGIC)] != MAGIC:
        raise DamageError(path, 0, "is not a journal of this release")
    payloads: list[bytes] = []
    end = End(len(MAGIC), 0, _FIRST, False)
    for payload, after in _records(path, data, end):
        end = after
        if payload is not None:
            payloads.append(payload)
    if not payloads:
        raise DamageError(path, end.offset, "the first record is missing")
    return payloads, end


def _records(path: Path, data: bytes, end: End) -> Iterator[tuple[bytes | None, End]]:
    while end.offset < len(data):
        start = end.offset
        torn = End(start, end.sequence, end.digest, True)
        if _never_written(data, start):
            yield None, torn
            return
        head = data[start : start + _HEADER.size]
        if len(head) < _HEADER.size:
            if not _MARK.startswith(head[: len(_MARK)]):
                raise DamageError(path, start, f"record {end.sequence} does not begin like one")
            yield None, torn
            return
        mark, length, sequence, crc = _HEADER.unpack(head)
        if mark != _MARK or crc != zlib.crc32(head[:-4]) or length > MAX_PAYLOAD:
            raise DamageError(path, start, f"the header of record {end.sequence} does not match its checksum")
        if sequence != end.sequence:
            raise DamageError(path, start, f"record {sequence} where {end.sequence} was due")
        body = start + _HEADER.size
        stop = body + length + _DIGEST
        if stop > len(data):
            yield None, torn
            return
        digest = hashlib.sha256(end.digest + data[start : body + length]).digest()
        if digest != data[body + length : stop]:
            if stop == len(data) and _zeros_to_the_end(data, body):
                yield None, torn
                return
            raise DamageError(path, start, f"record {sequence} does not match its checksum")
        end = End(stop, sequence + 1, digest, False)
        yield data[body : body + length], end


def _never_written(data: bytes, start: int) -> bool:
    return not any(data[start : start + 65_536]) and data.count(0, start) == len(data) - start


def _zeros_to_the_end(data: bytes, body: int) -> bool:
    """Whether the file ends in sectors of zeros that begin inside its last record."""
    last = len(data) - 1
    while last >= body and data[last] == 0:
        last -= 1
    first_sector = -(-(last + 1) // _SECTOR) * _SECTOR
    # The digest itself must be part of what is missing: thirty-two zeros are no digest.
    return first_sector <= len(data) - _DIGEST


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
        scratch = path.with_suffix(".new")
        try:
            handle = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise cannot(path, "be made", error) from error
        try:
            end = End(0, 0, _FIRST, False)
            data = bytearray(MAGIC)
            for payload in payloads:
                framed, digest = _framed(payload, end)
                data += framed
                end = End(0, end.sequence + 1, digest, False)
            _write(handle, bytes(data))
            os.fsync(handle)
            scratch.replace(path)
            sync_directory(path.parent)
        except OSError as error:
            os.close(handle)
            scratch.unlink(missing_ok=True)
            raise cannot(path, "be made", error) from error
        return cls(path, handle, End(len(data), end.sequence, end.digest, False))

    @classmethod
    def open(cls, path: Path) -> tuple[Log, list[bytes]]:
        """Open a journal to go on with it, cutting off an unfinished last record; return it and its payloads.

        Raises DamageError, PreconditionError.
        """
        payloads, end = read(path)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if end.torn:
                    os.ftruncate(handle, end.offset)
                    os.fsync(handle)
                os.lseek(handle, end.offset, os.SEEK_SET)
            except OSError:
                os.close(handle)
                raise
        except OSError as error:
            raise cannot(path, "be written", error) from error
        return cls(path, handle, End(end.offset, end.sequence, end.digest, False)), payloads

    @property
    def length(self) -> int:
        """How many records there are."""
        return self._end.sequence

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
        framed, digest = _framed(payload, self._end)
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
        self._end = End(self._end.offset + len(framed), self._end.sequence + 1, digest, False)

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


def cannot(path: Path, what: str, error: OSError) -> PreconditionError:
    """The error for a file that cannot be read or written."""
    return PreconditionError(f"{path.parent.name}/{path.name}", f"cannot {what}: {error.strerror or error}")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _framed(payload: bytes, end: End) -> tuple[bytes, bytes]:
    head = struct.pack("<4sIQ", _MARK, len(payload), end.sequence)
    head += struct.pack("<I", zlib.crc32(head))
    digest = hashlib.sha256(end.digest + head + payload).digest()
    return head + payload + digest, digest


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
