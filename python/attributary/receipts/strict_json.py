"""JSON from anybody, read so that a text means one thing or is refused: UTF-8, no name twice, no NaN, not too large."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final, NoReturn

from attributary.errors import ReceiptError

# An answer of 1,000 items takes some hundreds of kilobytes.
MAX_BYTES: Final = 16 << 20


def read(data: bytes, what: str) -> dict[str, Any]:
    """Return the one object that `data` is; raises ReceiptError naming `what`."""
    if len(data) > MAX_BYTES:
        raise ReceiptError(what, f"has {len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReceiptError(what, f"is not UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except ReceiptError as error:
        raise ReceiptError(what, error.message) from None
    except RecursionError:
        raise ReceiptError(what, "is nested too deeply") from None
    except ValueError as error:
        raise ReceiptError(what, f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ReceiptError(what, "must be one JSON object")
    return value


def write(value: Any) -> bytes:
    """Return a value as JSON in one line; raises ValueError for a number that is not finite."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def fields(value: Any, names: tuple[str, ...], what: str) -> tuple[Any, ...]:
    """Return the entries of an object that has exactly these; raises ReceiptError naming the first other one."""
    if not isinstance(value, dict):
        raise ReceiptError(what, "must be an object")
    for name in names:
        if name not in value:
            raise ReceiptError(f"{what}.{name}", "is missing")
    for name in value:
        if name not in names:
            # Nothing that is not signed may look as if it were.
            raise ReceiptError(f"{what}.{name[:80]}", "is not a known entry")
    return tuple(value[name] for name in names)


def from_base64(text: Any, what: str) -> bytes:
    """Return the bytes of standard base64 with its padding; raises ReceiptError for any other spelling of them."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise ReceiptError(what, "is not base64 as it is written (standard alphabet, padded, not empty)")
    return data


def to_base64(data: bytes) -> str:
    """Return bytes as standard base64 with its padding."""
    return base64.b64encode(data).decode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ReceiptError("json", f"has the entry {doubled[:80]!r} twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ReceiptError("json", f"holds {text}, which is no number of JSON")
