"""Values of a log's columns: their types made plain and joined between files, and what a cell says.

Whatever a cell holds is a value or a problem of its row; nothing in here raises for a value.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .rows import Problem, invalid

_UNITS = ("s", "ms", "us", "ns")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{40,}={0,2}")
# How base64 of a JPEG, PNG, GIF, WebP and BMP begins.
_BASE64_STARTS = (b"/9j/", b"_9j_", b"iVBORw0K", b"R0lGOD", b"UklGR", b"Qk")
_PATH_ENDS = (b".png", b".jpg", b".jpeg", b".jfif", b".webp", b".gif", b".bmp", b".avif", b".jxl", b".tiff")
_MOST_PATH = 4096
_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
_LISTS = (
    *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    *(pa.types.is_list_view, pa.types.is_large_list_view),
)

# What a cell says of a picture: (encoded bytes, path or URI, problem).
Picture = tuple[bytes | None, str | None, Problem | None]


def plain_type(kind: Any) -> Any:
    """Return a type as the output has it: no dictionaries, no views."""
    types = pa.types
    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if isinstance(kind, pa.DictionaryType):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.RunEndEncodedType):
        return plain_type(kind.value_type)
    if types.is_struct(kind):
        return pa.struct([_plain_field(kind.field(place)) for place in range(kind.num_fields)])
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(_plain_field(kind.value_field))
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(_plain_field(kind.value_field))
    return kind


def joined_type(one: Any, other: Any) -> Any:
    """Return the type that holds the values of both, None if none does: wider numbers, the coarser of two clocks."""
    if one == other:
        return one
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other):
        if (one.tz is None) != (other.tz is None):
            return None
        # A finer unit cannot hold the years of a coarser one.
        unit: Any = min(one.unit, other.unit, key=_UNITS.index)
        return pa.timestamp(unit, one.tz if one.tz == other.tz else "UTC")
    if pa.uint64() in (one, other) and any(pa.types.is_signed_integer(kind) for kind in (one, other)):
        return pa.decimal128(20, 0)
    try:
        schemas = [pa.schema([("a", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("a").type
    except pa.ArrowException:
        return None


def cast(column: Any, kind: Any) -> Any:
    """Return a column as another type that `plain_type` or `joined_type` gave.

    Digits that do not fit are cut; a cell that does not fit at all is null.
    """
    if column.type == kind:
        return column
    # A clock may lose fractions and a float digits; anything else that did not fit would be another value.
    safe = not (pa.types.is_timestamp(kind) or pa.types.is_floating(kind))
    try:
        # Arrow's own cast of parts of list views leaves offsets out.
        whole = _rebuilt(column) if "list_view" in str(column.type) else column
        return whole.cast(kind, safe=safe)
    except pa.ArrowException:
        # It knows no cast for some types inside others.
        column = _rebuilt(column)
    try:
        return column.cast(kind, safe=safe)
    except pa.ArrowException:
        return pa.concat_arrays([_cast_cell(column.slice(row, 1), kind, safe) for row in range(len(column))])


def _cast_cell(cell: Any, kind: Any, safe: bool) -> Any:
    try:
        return cell.cast(kind, safe=safe)
    except pa.ArrowException:
        return pa.nulls(1, kind)


def readable(column: Any) -> Any:
    """Return a column whose texts are valid Unicode wherever in it they stand; bytes that are none become escapes."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return _rebuilt(column)
    return column


def _rebuilt(column: Any) -> Any:
    """The same column, put together again from its parts: no dictionaries, no views, no invalid text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _rebuilt(column.dictionary).take(column.indices)
    if isinstance(kind, pa.RunEndEncodedType):
        return _rebuilt(pc.call_function("run_end_decode", [column]))
    if pa.types.is_struct(kind):
        fields = [kind.field(place) for place in range(kind.num_fields)]
        parts = [_rebuilt(pc.struct_field(column, [place])) for place in range(kind.num_fields)]
        fields = [field.with_type(part.type) for field, part in zip(fields, parts, strict=True)]
        return pa.StructArray.from_arrays(parts, fields=fields, mask=column.is_null())
    if is_list(kind) and not pa.types.is_fixed_size_list(kind):
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        ends = pc.cumulative_sum(lengths.cast(pa.int64())).to_pylist()
        offsets = pa.array([0, *ends], pa.int32())
        return pa.ListArray.from_arrays(offsets, _rebuilt(pc.list_flatten(column)), mask=column.is_null())
    if is_text(kind) and not pa.types.is_null(kind):
        data = column.cast(pa.large_binary()).to_pylist()
        return pa.array(
            [None if value is None else value.decode("utf-8", "backslashreplace") for value in data],
            plain_type(kind),
        )
    if is_binary(kind):
        return column.cast(plain_type(kind))
    return column


def texts(column: pa.Array[Any], field: str) -> list[tuple[str | None, Problem | None]]:
    """(text, problem) of each cell of text, integers, UUIDs, decimals or bytes that are UTF-8."""
    kind = column.type
    if isinstance(kind, pa.UuidType) or not _is_bytes_like(kind):
        return [(None if value is None else str(value), None) for value in column.to_pylist()]
    found: list[tuple[str | None, Problem | None]] = []
    # Cast to bytes: a text of Arrow's may be no valid Unicode, and Python would refuse the whole column.
    plain = _rebuilt_bytes(column) if pa.types.is_dictionary(kind) else column
    for value in cast(plain, pa.large_binary()).to_pylist():
        try:
            found.append((None if value is None else value.decode(), None))
        except UnicodeDecodeError:
            found.append((None, invalid(field, "is not valid UTF-8")))
    return found


def names(column: pa.Array[Any], field: str) -> list[tuple[str | None, Problem | None]]:
    """The same for ids: 16 bytes are a UUID and others are written in hex where they are no text."""
    found = texts(column, field)
    if not is_binary(column.type):
        return found
    for place, (_, problem) in enumerate(found):
        if problem is not None or pa.types.is_fixed_size_binary(column.type):
            value = column[place].as_py()
            if value is not None:
                found[place] = (str(uuid.UUID(bytes=value)) if len(value) == 16 else value.hex(), None)
    return found


def pictures(column: pa.Array[Any]) -> list[Picture]:
    """What each cell says: bytes, a path or URI, base64, a data: URI, a struct of them, or a list of one of them."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return pictures(_rebuilt_bytes(column))
    if pa.types.is_struct(kind):
        return _of_structs(column)
    if is_list(kind):
        return [_of_list(cell) for cell in column]
    if is_binary(kind):
        return [_of_bytes(value) for value in column.to_pylist()]
    return [(None, None, problem) if problem else _of_text(text) for text, problem in texts(column, "image")]


def is_text(kind: pa.DataType) -> bool:
    """Whether cells of a type are text."""
    kind = plain_type(kind)
    # Nulls alone are what writers give a text column that holds nothing.
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether cells of a type are bytes."""
    return any(of(kind) for of in _BYTES)


def is_list(kind: pa.DataType) -> bool:
    """Whether cells of a type are lists."""
    return any(of(kind) for of in _LISTS)


def is_readable(kind: pa.DataType) -> bool:
    """Whether cells of a type can be a prompt or a model."""
    return is_text(kind) or is_binary(kind) or isinstance(kind, pa.UuidType)


def is_name(kind: pa.DataType) -> bool:
    """Whether cells of a type can be ids."""
    whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale <= 0)
    return is_readable(kind) or bool(whole)


def is_image(kind: Any) -> bool:
    """Whether cells of a type can be pictures."""
    if isinstance(kind, pa.DictionaryType):
        return is_image(kind.value_type)
    if is_list(kind):
        return is_image(kind.value_type)
    if pa.types.is_struct(kind):
        inside = {kind.field(place).name for place in range(kind.num_fields)}
        return bool(inside & {"bytes", "path"})
    return is_text(kind) or is_binary(kind)


def _rebuilt_bytes(column: Any) -> Any:
    """A dictionary's values in place; invalid text in it stays for its row to answer for."""
    return cast(column.dictionary, plain_type(column.type.value_type)).take(column.indices)


def _plain_field(field: pa.Field[Any]) -> pa.Field[Any]:
    return field.with_type(plain_type(field.type))


def _is_bytes_like(kind: pa.DataType) -> bool:
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return is_text(kind) or is_binary(kind)


def _of_structs(column: Any) -> list[Picture]:
    inside = {column.type.field(place).name for place in range(column.type.num_fields)}
    columns: Sequence[list[Picture]] = [
        pictures(column.field(name)) for name in ("bytes", "path") if name in inside
    ]
    valid = column.is_valid().to_pylist()
    found: list[Picture] = []
    for row, there in enumerate(valid):
        cells = [cells[row] for cells in columns] if there else [_NULL]
        found.append(next((cell for cell in cells if cell[0] is not None or cell[1]), cells[-1]))
    return found


def _of_list(cell: Any) -> Picture:
    if not cell.is_valid:
        return _NULL
    if len(cell) != 1:
        return (None, None, invalid("image", f"holds {len(cell)} pictures; a row has one"))
    return pictures(cell.values)[0]


def _of_bytes(value: bytes | None) -> Picture:
    if value is None:
        return _NULL
    # Writers without a text type (Impala, older Hive) store paths and base64 as bytes.
    if value.startswith((b"data:", *_BASE64_STARTS)) or (
        len(value) <= _MOST_PATH and value.lower().endswith(_PATH_ENDS) and value.isascii()
    ):
        try:
            return _of_text(value.decode())
        except UnicodeDecodeError:
            pass
    return (value, None, None)


def _of_text(text: str | None) -> Picture:
    if text is None:
        return _NULL
    if text[:5].lower() == "data:":
        head, _, body = text.partition(",")
        if not head.lower().endswith(";base64"):
            return (None, None, invalid("image", "is a data: URI without base64"))
        return _decoded(body) or (None, None, invalid("image", "is a data: URI of damaged base64"))
    if text.startswith(tuple(start.decode() for start in _BASE64_STARTS)) and (found := _decoded(text)):
        return found
    return (None, text, None)


def _decoded(text: str) -> Picture | None:
    data = re.sub(rb"\s+", b"", text.encode("utf-8", "replace"))
    if not _BASE64.fullmatch(data):
        return None
    data = data.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return (base64.b64decode(data + b"=" * (-len(data) % 4), validate=True), None, None)
    except binascii.Error:
        return None


_NULL: Picture = (None, None, invalid("image", "is null"))
