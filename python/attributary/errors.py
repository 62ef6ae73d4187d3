"""What can go wrong, once, for every layer.

The request-time errors map one to one to gRPC codes in the gateway; the bundle errors stop a server from opening
what it must not serve. Nothing below the gateway knows a transport.
"""

from __future__ import annotations

import errno
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final


class AttributaryError(Exception):
    """Base of every error this package raises on purpose. Picklable, whatever its constructor takes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).__new__, (type(self), *self.args), vars(self)


# What a full disk, a quota or a limit on files' sizes says.
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What is wrong with a place that somebody named, or with their right to it: no fault of this package either.
PLACE: Final = (
    *FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
    errno.ELOOP,
)  # fmt: skip


class InvalidArgumentError(AttributaryError):
    """The request is wrong: `field` is the path of the value at fault ("query.image"), the text says the limit."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class NotFoundError(AttributaryError):
    """A bundle or an item that does not exist: `kind` is "bundle" or "item", `name` what was asked for."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"no such {kind}: {name}")
        self.kind = kind
        self.name = name


class DeletedError(NotFoundError):
    """An item that was there and has been deleted, at `at` (ISO 8601, UTC)."""

    def __init__(self, item_id: int | str, at: str) -> None:
        super().__init__("item", str(item_id))
        self.at = at

    def __str__(self) -> str:
        return f"item {self.name} was deleted at {self.at}"


class AlreadyExistsError(AttributaryError):
    """An id that another item has: `kind` is "item", `name` the id, the text says what differs."""

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(f"{kind} {name} exists already: {message}")
        self.kind = kind
        self.name = name
        self.message = message


class PreconditionError(AttributaryError):
    """Right, but not in this state: `subject` is what stands in the way, the text says what would help."""

    def __init__(self, subject: str, message: str) -> None:
        super().__init__(f"{subject}: {message}")
        self.subject = subject
        self.message = message


class OverloadedError(AttributaryError):
    """Every admission permit is taken; come back after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 0.1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnauthenticatedError(AttributaryError):
    """A call without a token that its service accepts."""

    def __init__(self, message: str = "a valid bearer token is needed") -> None:
        super().__init__(message)


class PermissionDeniedError(AttributaryError):
    """A caller who is known and lacks a role; `role` is which."""

    def __init__(self, role: str) -> None:
        super().__init__(f"the role {role!r} is needed")
        self.role = role


class DeadlineError(AttributaryError):
    """The caller's deadline passed, or the caller left, before the answer was ready."""


class UnavailableError(AttributaryError):
    """The engine is starting, draining, or a service behind it is away."""


class BundleError(AttributaryError):
    """A bundle that must not be served; `file` is the bundle's file at fault."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(f"bundle file {file}: {message}")
        self.file = file
        self.message = message


class InputError(AttributaryError):
    """A log that cannot be scored as it is; `file` is the input at fault, `place` the column or row in it."""

    def __init__(self, file: str, message: str, place: str = "") -> None:
        super().__init__(f"input {file}: {place + ': ' if place else ''}{message}")
        self.file = file
        self.place = place
        self.message = message


class OutputError(AttributaryError):
    """A run's file that cannot be written or is not what was written; `file` is its name in the run directory."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(f"output {file}: {message}")
        self.file = file
        self.message = message


class RunError(AttributaryError):
    """A run that must not go on: `setting` is what differs from `run.json`, or the limit that was passed."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting = setting
        self.message = message


class ReceiptError(AttributaryError):
    """A receipt that proves nothing: `field` is the path of what is wrong in it ("receipt.payload")."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Say which extra is to be installed where an import within fails: UnavailableError."""
    try:
        yield
    except ImportError as error:
        raise UnavailableError(f"{error}; install attributary[{extra}]") from None


def imported(module: str, need: str, extra: str) -> Any:
    """Import a module of an extra; where it is not there, say what needs it and how to get it: UnavailableError."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(f"{need} ({error}); pip install 'attributary[{extra}]'") from None


def check_range(field: str, value: float, least: float, most: float | None = None) -> None:
    """Raise InvalidArgumentError unless a number lies between two others, both included; a NaN lies nowhere."""
    if most is None and not value >= least:
        raise InvalidArgumentError(field, f"must be at least {least}, got {value}")
    if most is not None and not least <= value <= most:
        raise InvalidArgumentError(field, f"must be from {least} to {most}, got {value}")


def said_of(error: OSError) -> str:
    """What is said of a file that cannot be read or written; of a copy it is the second one that is in the way."""
    if error.errno in FULL:
        return f"cannot write {error.filename2 or error.filename or 'all of it'}: {error.strerror}"
    named = error.filename2 or error.filename
    return f"{named}: {error.strerror}" if named else str(error.strerror or error)
