"""Members of a tar, whatever wrote it: compressed or not, several joined by `cat`, sparse, linked.

Raises InputError naming the byte from which a tar cannot be read.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from attributary.errors import InputError

from .rows import Fates

_BLOCK = 512
_PIECE = 1 << 20
_MAX_LINKS = 8  # that lead one to another
_FAILURES = (
    *(tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException),
    # Of the library's own on hostile headers.
    *(LookupError, ArithmeticError, RecursionError),
)


@dataclass(slots=True)
class Member:
    """One file in a tar. `size` is that of the file, its holes counted; `data` is there if it was asked for."""

    name: str
    offset: int  # of its header, bytes into the (inflated) tar
    size: int
    data: bytes | None = None
    problem: str = ""  # why there is no data to be had
    source: int = -1  # offset of the member that a link leads to; -1 for its own
    same_as: str = ""  # name of the member that a symbolic link leads to


class TarStream:
    """Reads one tar's members in order, from any header on."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._stream = self._open()
        self._targets: dict[str, int] | None = None

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def members(self, offset: int, most: int, fates: Fates) -> Iterator[Member]:
        """Yield the files from a header on. Data of at most `most` bytes is read along, -1 reads none.

        What is no file (directories, devices) is counted in `fates`. At the end it is seen that the tar ends as a tar
        does; rows would be lost in silence otherwise.
        """
        for info, tar in self._headers(self._stream, offset, fates):
            if info.isfile():
                yield Member(info.name, info.offset, info.size, self._data(tar, info, most))
            elif info.islnk() or info.issym():
                yield self._linked(info, most)
            elif info.isdir():
                fates.ignore(info.name, "a directory in a tar")
            else:
                fates.skip(info.name, "a device or pipe in a tar")

    def first_bytes(self, member: Member, count: int = 16) -> bytes:
        """The first bytes of a member's file, read beside the walk."""
        if member.problem:
            return b""
        return self._read_at(member.offset if member.source < 0 else member.source, count)

    def _headers(self, stream: Any, offset: int, fates: Fates) -> Iterator[tuple[tarfile.TarInfo, Any]]:
        at = offset
        while True:
            try:
                tar = _tar_at(stream, at)
                while (info := tar.next()) is not None:
                    # It remembers every member otherwise.
                    tar.members.clear()
                    yield info, tar
                at = self._next_archive(stream, tar.offset)
            except _FAILURES as error:
                raise InputError(self._name, f"cannot be read as a tar: {error}") from error
            if at < 0:
                return
            if not self._is_header(stream, at):
                fates.skip(self._name, "bytes behind the end of a tar that are no tar")
                return

    def _next_archive(self, stream: Any, end: int) -> int:
        """Where the next of several joined tars begins; -1 at the end of the file."""
        stream.seek(end)
        block = stream.read(_BLOCK)
        # tarfile takes a damaged header for the end of the archive.
        if block != bytes(_BLOCK):
            raise InputError(self._name, "is cut off or damaged: no end of archive", f"byte {end}")
        at = end + _BLOCK
        while piece := stream.read(_PIECE):
            rest = len(piece) - len(piece.lstrip(b"\0"))
            if rest < len(piece):
                return int(at + rest - rest % _BLOCK)
            at += len(piece)
        return -1

    def _is_header(self, stream: Any, at: int) -> bool:
        stream.seek(at)
        try:
            tarfile.TarInfo.frombuf(stream.read(_BLOCK), "utf-8", "backslashreplace")
        except tarfile.HeaderError:
            return False
        return True

    def _data(self, tar: Any, info: tarfile.TarInfo, most: int) -> bytes | None:
        """A member's bytes, its holes filled; None where they are more than are wanted."""
        if info.size > most:
            return None
        try:
            data = bytes(tar.extractfile(info).read())
        except _FAILURES as error:
            raise InputError(self._name, f"cannot be read: {error}", info.name) from error
        if len(data) != info.size:
            raise InputError(self._name, "is cut off", info.name)
        return data

    def _linked(self, info: tarfile.TarInfo, most: int) -> Member:
        """The file that a link leads to; links out of the tar lead nowhere."""
        try:
            if self._targets is None:
                self._targets = self._find_targets()
            name = _target(info)
            for _ in range(_MAX_LINKS):
                at = self._targets.get(name)
                if at is None:
                    break
                with self._open() as stream:
                    tar = _tar_at(stream, at)
                    found = tar.next()
                    if found.isfile():
                        data = self._data(tar, found, most)
                        same_as = found.name if info.issym() else ""
                        return Member(info.name, info.offset, found.size, data, source=at, same_as=same_as)
                    name = _target(found)
        except _FAILURES as error:
            raise InputError(self._name, f"cannot be read: {error}", info.name) from error
        return Member(
            info.name, info.offset, 0, problem=f"is a link to {info.linkname[:80]}, which is not in the tar"
        )

    def _find_targets(self) -> dict[str, int]:
        """Offsets of the members that links lead to, by name; two walks over the headers."""
        with self._open() as stream:
            wanted = {
                _target(info) for info, _ in self._headers(stream, 0, Fates()) if info.islnk() or info.issym()
            }
        with self._open() as stream:
            return {
                name: info.offset
                for info, _ in self._headers(stream, 0, Fates())
                if (name := posixpath.normpath(info.name)) in wanted
            }

    def _read_at(self, offset: int, count: int) -> bytes:
        try:
            with self._open() as stream:
                tar = _tar_at(stream, offset)
                return bytes(tar.extractfile(tar.next()).read(count))
        except _FAILURES as error:
            raise InputError(self._name, f"cannot be read: {error}", f"byte {offset}") from error

    def _open(self) -> IO[bytes]:
        last = self._path.name.lower()
        opener = next((of for ends, of in _OPENERS.items() if last.endswith(ends)), Path.open)
        try:
            return cast(IO[bytes], opener(self._path, "rb"))
        except OSError as error:
            raise InputError(self._name, f"cannot be opened: {error.strerror}") from error


class _Zstandard:
    """An inflated stream that seeks forward by reading and backward from the start, as gzip's does."""

    def __init__(self, path: Path, _: str) -> None:
        self._path = path
        self._stream = pa.input_stream(str(path), compression="zstd")
        self._at = 0

    def read(self, count: int = -1) -> bytes:
        data = bytes(self._stream.read(None if count < 0 else count))
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, place: int, whence: int = 0) -> int:
        if place < self._at:
            self._stream.close()
            self._stream, self._at = pa.input_stream(str(self._path), compression="zstd"), 0
        while self._at < place and self.read(min(_PIECE, place - self._at)):
            pass
        return self._at

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> _Zstandard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_OPENERS: dict[tuple[str, str], Callable[..., Any]] = {
    (".gz", ".tgz"): gzip.open,
    (".bz2", ".tbz2"): bz2.open,
    (".xz", ".txz"): lzma.open,
    (".zst", ".tzst"): _Zstandard,
}


class _NoGlobals(dict[str, str]):
    """Global pax headers, which are not kept: a shard is read from the middle, behind them."""

    def __setitem__(self, name: str, value: str) -> None:
        return


def _tar_at(stream: Any, offset: int) -> Any:
    stream.seek(offset)
    options: Any = {"encoding": "utf-8", "errors": "backslashreplace", "pax_headers": _NoGlobals()}
    return tarfile.TarFile(fileobj=stream, mode="r", **options)


def _target(link: tarfile.TarInfo) -> str:
    """Name of the member that a link leads to: a hard link's is the member's own, a symbolic link's is relative."""
    if link.islnk():
        return posixpath.normpath(link.linkname)
    return posixpath.normpath(posixpath.join(posixpath.dirname(link.name), link.linkname))
