"""Naming the field of a message that protobuf could not read. Runs only after parsing has failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from attributary.errors import InvalidArgumentError

if TYPE_CHECKING:
    from google._upb._message import Descriptor as UpbDescriptor

    AnyDescriptor: TypeAlias = Descriptor | UpbDescriptor

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 16
# This runs on the event loop: so many fields take some hundredths of a second, a message may hold a hundred million.
_MAX_FIELDS = 10_000
# What a message holds beside a repeated field, and how many too many are counted.
_FEW_FIELDS = 1_000
_MAX_OPTIONS_BYTES = 1 << 20
_SMALL_BYTES = 1 << 13
_NONE: Mapping[str, int] = MappingProxyType({})


class _MalformedError(Exception):
    """The bytes are not a protobuf message, or hold more fields than are looked at."""


def find_fault(data: bytes, kind: AnyDescriptor) -> tuple[str, str]:
    """Return (path of the field at fault, what is wrong with it) for bytes that do not parse as `kind`.

    The path is "request" where the bytes are no protobuf message at all, or the fault is not in the first fields.
    """
    try:
        path = _invalid_text(memoryview(data), kind, "", 0, iter(range(_MAX_FIELDS)))
    except _MalformedError:
        path = None
    if path is None:
        return "request", f"is not a readable {kind.name} message"
    return path, "must be valid UTF-8"


def check_outline(data: bytes | memoryview, kind: AnyDescriptor, counts: Mapping[str, int] = _NONE) -> None:
    """Raise InvalidArgumentError for what would cost much to parse, before it is parsed.

    `counts` is how many of a repeated field there may be; far more are refused here, a few more by the parser.
    `options` may have 1 MiB. A message that cannot be read passes: parsing it says what is wrong with it.
    """
    if not counts and len(data) <= _SMALL_BYTES:
        # Whatever it holds, parsing it takes microseconds.
        return
    view, at = memoryview(data), 0
    seen = dict.fromkeys(counts, 0)
    options = 0
    most = sum(counts.values()) + _FEW_FIELDS
    for _ in range(most):
        if at >= len(view):
            return
        try:
            tag, at = _varint(view, at)
            value, at = _value(view, at, tag & 7)
        except _MalformedError:
            return
        field = kind.fields_by_number.get(tag >> 3)
        name = field.name if field is not None else ""
        if name in seen:
            seen[name] += 1
        elif name == "options":
            options += len(value)
            if options > _MAX_OPTIONS_BYTES:
                raise InvalidArgumentError("options", f"must have at most {_MAX_OPTIONS_BYTES} bytes")
        elif name == "request" and field is not None and field.message_type is not None:
            check_outline(value, field.message_type)
    for name, count in seen.items():
        if count > counts[name]:
            raise InvalidArgumentError(name, f"must hold 1 to {counts[name]} {name}, got more than {count}")
    raise InvalidArgumentError("request", f"has more than {most} fields")


def _invalid_text(
    data: memoryview, kind: AnyDescriptor, prefix: str, depth: int, left: Iterator[int]
) -> str | None:
    counts: dict[int, int] = {}
    at = 0
    while at < len(data):
        if next(left, None) is None:
            raise _MalformedError
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        value, at = _value(data, at, wire_type)
        field = kind.fields_by_number.get(number)
        if field is None or wire_type != _BYTES:
            continue
        path = prefix + field.name
        if field.is_repeated:
            path += f"[{counts.get(number, 0)}]"
            counts[number] = counts.get(number, 0) + 1
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                bytes(value).decode("utf-8")
            except UnicodeDecodeError:
                return path
        elif field.message_type is not None and depth < _MAX_DEPTH:
            inner = _invalid_text(value, field.message_type, path + ".", depth + 1, left)
            if inner is not None:
                return inner
    return None


def _value(data: memoryview, at: int, wire_type: int) -> tuple[memoryview, int]:
    if wire_type == _VARINT:
        _, end = _varint(data, at)
    elif wire_type == _BYTES:
        size, at = _varint(data, at)
        end = at + size
    elif wire_type in {_FIXED32, _FIXED64}:
        end = at + (4 if wire_type == _FIXED32 else 8)
    else:
        raise _MalformedError
    if end > len(data):
        raise _MalformedError
    return data[at:end], end


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _MalformedError
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _MalformedError
