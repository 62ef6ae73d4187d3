"""Hashing and crash-safe directory creation."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attributary.errors import BundleError, InvalidArgumentError

_PIECE = 1 << 20


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(directory: Path, expected: dict[str, str]) -> None:
    """Check that every listed file is there with its SHA-256; raises BundleError naming the first that is not."""
    for name, digest in expected.items():
        if Path(name).name != name or name in {"", ".", ".."}:
            raise BundleError(name, "is not a plain file name")
        path = directory / name
        if not path.is_file():
            raise BundleError(name, "is missing")
        require_digest(name, sha256(path), digest)


def require_digest(name: str, found: str, digest: str) -> None:
    """Raise BundleError naming a file whose SHA-256 is not the manifest's."""
    if found != digest:
        raise BundleError(
            name, f"SHA-256 is {found[:12]}..., the manifest says {digest[:12]}...; it was changed"
        )


def require_writable(target: Path) -> None:
    """Raise InvalidArgumentError unless a directory can be made at `target`: before the work that is to lie in it."""
    # Of directories that are not there yet the first is made in the last one that is.
    place = next(place for place in target.absolute().parents if os.path.lexists(place))
    try:
        Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=place)).rmdir()
    except OSError as error:
        raise InvalidArgumentError("out", f"{target} cannot be written: {error.strerror}") from None


@contextmanager
def new_directory(target: Path, force: bool = False) -> Iterator[Path]:
    """Yield a scratch directory that becomes `target` only if the block succeeds; files are flushed to disk first.

    Raises FileExistsError if `target` is there and `force` is not set.
    """
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists; choose another path or pass --force")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch
        for path in scratch.iterdir():
            sync(path)
        scratch.chmod(0o755)
        sync(scratch)
        if target.exists():
            retired = scratch.with_name(scratch.name + ".old")
            target.rename(retired)
            scratch.rename(target)
            shutil.rmtree(retired)
        else:
            scratch.rename(target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a directory, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes, scratch: Path | None = None) -> None:
    """Write a file that appears whole, or is replaced whole, durably. Raises OSError, and then nothing has changed.

    `scratch` is where it is written first: beside it, and left there by a kill.
    """
    scratch = scratch or path.with_name(path.name + ".new")
    try:
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view[:_PIECE]) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(scratch, path)  # noqa: PTH105 - of one module, so that tests can stand in the way of every call
        sync(path.parent)
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


def save_array(path: Path, array: NDArray[Any]) -> None:
    """As `np.save`, but an OSError says why: NumPy's own tells how many bytes there are, not that the disk is full."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)
