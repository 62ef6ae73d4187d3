"""TFRecord files of tf.train.Example: one record, one row. What img2dataset's tfrecord output is.

Sources: tensorflow/core/lib/io/record_writer.h (framing), tensorflow/core/example/example.proto and feature.proto.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from struct import error as StructError  # noqa: N812 - an exception
from struct import unpack
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from attributary.errors import InputError

from .inputs import InputFile
from .picture_tables import prompt_in
from .reader import StreamReader, decoded
from .rows import Row, invalid, nameless
from .settings import IMAGE_COLUMNS, Settings

_IMAGES = (*IMAGE_COLUMNS, "image/encoded", "image_raw")
_HEAD, _FOOT = 12, 4  # bytes of length and checksum, of a second checksum
_MAX_RECORD = 1 << 30
# {name: bytes, number or list} of a record; None if it is no Example.
_Features = dict[str, Any] | None


class RecordInput(StreamReader[_Features]):
    """One TFRecord file. Raises InputError naming the byte from which it cannot be read."""

    what = "records"

    def __init__(self, file: InputFile, settings: Settings) -> None:
        super().__init__(file, settings)
        try:
            self._stream = file.path.open("rb")
        except OSError as error:
            raise InputError(file.name, f"cannot be opened: {error.strerror}") from error

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def samples(self, offset: int, counted: bool) -> Iterator[tuple[int, int, _Features]]:
        """Yield (byte at which a record begins, 0, its features)."""
        return ((at, 0, _features(data)) for at, data in self._records(offset))

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

    def id_of(self, sample: _Features, number: int) -> str:
        """The file's name and the record's own id, or its number."""
        features, name = sample or {}, self._settings.columns.id
        names = (name,) if name else ("generation_id", "key")
        key = next((text for name in names if (text := _text(features.get(name)))), "")
        return f"{self._file.name.rpartition('.')[0]}/{key}" if key else nameless(self._file.name, number)

    def row_of(self, sample: _Features, number: int) -> tuple[Row, str | None]:
        """The row of a record, and its other features as JSON."""
        if sample is None:
            problem = invalid("metadata", "must be a record of tf.train.Example")
            return Row(nameless(self._file.name, number), problem=problem), None
        features = sample
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
        stated = {"prompt": facts.get(columns.prompt)} if columns.prompt else facts
        prompt = prompt_in(stated) if "column" in self._settings.prompt_from else ""
        model = facts.get(columns.model or "model_id")
        row = Row(
            self.id_of(features, number),
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


def _features(data: bytes) -> _Features:
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


def _message_class() -> Any:
    """The message class of tf.train.Example; a map on the wire is a list of entries."""
    file = text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("example.Example"))


_SCHEMA = """
name: "attributary/example.proto" package: "example"
message_type { name: "Bytes" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "Floats" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Whole" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: ".example.Bytes" oneof_index: 0 }
  field { name: "float_list" number: 2 type: TYPE_MESSAGE type_name: ".example.Floats" oneof_index: 0 }
  field { name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: ".example.Whole" oneof_index: 0 }
}
message_type {
  name: "Entry" field { name: "key" number: 1 type: TYPE_STRING }
  field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".example.Feature" }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".example.Entry" }
}
message_type { name: "Example" field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".example.Features" } }
"""
_EXAMPLE = _message_class()
