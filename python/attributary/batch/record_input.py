"""TFRecord files of tf.train.Example: one record, one row. What img2dataset's tfrecord output is.

Sources: tensorflow/core/lib/io/record_writer.h (framing), tensorflow/core/example/example.proto and feature.proto.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from struct import error as StructError  # noqa: N812 - an exception
from struct import unpack
from typing import Any

import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from attributary.bundle.files import sha256
from attributary.errors import InputError

from .folder_input import chosen, decoded
from .inputs import InputFile
from .picture_tables import prompt_in
from .rows import Batch, Fates, Row, Shard, invalid, nameless
from .settings import IMAGE_COLUMNS, Settings

_IMAGES = (*IMAGE_COLUMNS, "image/encoded", "image_raw")
_HEAD, _FOOT = 12, 4  # bytes of length and checksum, of a second checksum
_MAX_RECORD = 1 << 30
_IDS_AT_ONCE = 4_096
_PASSED = pa.schema([pa.field("prompt", pa.string()), pa.field("metadata", pa.string())])


class RecordInput:
    """One TFRecord file. Raises InputError naming the byte from which it cannot be read."""

    def __init__(self, file: InputFile, settings: Settings) -> None:
        self._file, self._settings = file, settings
        self._places: list[int] = []
        self.fates = Fates()
        self.passed = chosen(_PASSED, settings.pass_through, file, "a TFRecord file")
        try:
            self._stream = file.path.open("rb")
        except OSError as error:
            raise InputError(file.name, f"cannot be opened: {error.strerror}") from error

    def ids(self) -> Iterator[list[str]]:
        """Yield every record's id; remembers where shards begin."""
        self._places = []
        found: list[str] = []
        for number, (offset, data) in enumerate(self._records(0)):
            if number % self._settings.rows_per_shard == 0:
                self._places.append(offset)
            found.append(self._id(_features(data) or {}, number))
            if len(found) == _IDS_AT_ONCE:
                yield found
                found = []
        yield found

    def place(self, row: int) -> tuple[int, int]:
        """(byte at which a shard's first record begins, 0)."""
        return self._places[row // self._settings.rows_per_shard], 0

    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield the shard's records, `size` at a time."""
        records = self._records(shard.offset)
        for start in range(0, shard.rows, size):
            rows, facts = [], []
            for row in range(start, min(start + size, shard.rows)):
                _, data = next(records, (0, None))
                if data is None:
                    raise InputError(
                        self._file.name, "has fewer records than before", f"row {shard.start + row}"
                    )
                made, metadata = self._row(_features(data), shard.start + row)
                rows.append(made)
                facts.append({"metadata": metadata})
            passed = pa.RecordBatch.from_pylist(facts, schema=self.passed)
            yield Batch(rows, passed, fills_prompt="prompt" in self.passed.names)

    def digest(self) -> tuple[int, str]:
        """(bytes, SHA-256) of the file."""
        return self._file.path.stat().st_size, sha256(self._file.path)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _records(self, offset: int) -> Iterator[tuple[int, bytes]]:
        while True:
            self._stream.seek(offset)
            head = self._stream.read(_HEAD)
            if not head:
                return
            try:
                (length,) = unpack("<Q4x", head)
            except StructError:
                length = -1
            data = self._stream.read(length) if 0 <= length <= _MAX_RECORD else b""
            if len(data) != length or len(self._stream.read(_FOOT)) != _FOOT:
                raise InputError(self._file.name, "is cut off or damaged", f"byte {offset}")
            yield offset, data
            offset += _HEAD + length + _FOOT

    def _id(self, features: dict[str, Any], row: int) -> str:
        name = self._settings.columns.id
        key = (
            _text(features.get(name))
            if name
            else _text(features.get("generation_id")) or _text(features.get("key"))
        )
        return f"{self._file.name.rpartition('.')[0]}/{key}" if key else nameless(self._file.name, row)

    def _row(self, features: dict[str, Any] | None, number: int) -> tuple[Row, str | None]:
        if features is None:
            problem = invalid("metadata", "must be a record of tf.train.Example")
            return Row(nameless(self._file.name, number), problem=problem), None
        columns = self._settings.columns
        names = (columns.image,) if columns.image else _IMAGES
        picture = next(
            (name for name in names if isinstance(features.get(name), bytes) and features[name]), None
        )
        facts = {
            name: decoded(value) if isinstance(value, bytes) else value
            for name, value in features.items()
            if name != picture
        }
        told = {"prompt": facts.get(columns.prompt)} if columns.prompt else facts
        prompt = prompt_in(told) if "column" in self._settings.prompt_from else ""
        model = facts.get(columns.model or "model_id")
        row = Row(
            self._id(features, number),
            model if isinstance(model, str) else None,
            prompt,
            None if picture is None else features[picture],
            problem=invalid("image", "is missing from the record") if picture is None else None,
            prompt_source="column" if prompt else "",
        )
        return row, json.dumps(dict(sorted(facts.items())), ensure_ascii=False)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return decoded(value) or ""
    return "" if value is None else str(value)


def _features(data: bytes) -> dict[str, Any] | None:
    """{name: bytes, number or list} of a record; None if it is no Example."""
    try:
        example = _EXAMPLE.FromString(data)
    except DecodeError:
        return None
    found: dict[str, Any] = {}
    for entry in example.features.feature:
        kind = entry.value.WhichOneof("kind")
        values = list(getattr(entry.value, kind).value) if kind else []
        found[entry.key] = (
            values[0] if len(values) == 1 else None if not values else [str(value) for value in values]
        )
    return found


def _example() -> Any:
    """The message class of tf.train.Example; a map on the wire is a list of entries."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="attributary/example.proto", package="attributary.example")

    def message(name: str, *fields: tuple[str, int, Any, bool]) -> Any:
        made = file.message_type.add(name=name)
        for number, (label, at, kind, repeated) in enumerate(fields, 1):
            added = made.field.add(name=label, number=at or number)
            added.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                added.type, added.type_name = field.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                added.type = kind
        return made

    message("Bytes", ("value", 1, field.TYPE_BYTES, True))
    message("Floats", ("value", 1, field.TYPE_FLOAT, True))
    message("Whole", ("value", 1, field.TYPE_INT64, True))
    kinds = (
        ("bytes_list", 1, "Bytes", False),
        ("float_list", 2, "Floats", False),
        ("int64_list", 3, "Whole", False),
    )
    feature = message("Feature", *kinds)
    feature.oneof_decl.add(name="kind")
    for entry in feature.field:
        entry.oneof_index = 0
    message("Entry", ("key", 1, field.TYPE_STRING, False), ("value", 2, "Feature", False))
    message("Features", ("feature", 1, "Entry", True))
    message("Example", ("features", 1, "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("attributary.example.Example"))


_EXAMPLE = _example()
