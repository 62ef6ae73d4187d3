"""Inputs whose samples follow one another: WebDataset shards and TFRecord files.

A shard is a tar in which members of one base name, standing together, make one row. The prompt is .txt or .caption, or
a prompt in .json; the model is `model_id` in .json. The id is the tar's name and the key. The .json passes through as
column `metadata`.

A TFRecord file has records of tf.train.Example, each a row: what img2dataset's tfrecord output is. Sources:
tensorflow/core/lib/io/record_writer.h (framing), tensorflow/core/example/example.proto and feature.proto.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from struct import error as StructError  # noqa: N812 - an exception
from struct import unpack
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from attributary.errors import InputError

from .inputs import InputFile, count_other
from .naming import DECODED, PICTURES, TARS, TEXTS, bookkeeping, derived, ending, hidden
from .picture_tables import facts_of, prompt_in
from .reader import MAX_TEXT_BYTES, StreamReader, decoded, prompt_of_file
from .rows import Fates, Row, invalid, nameless
from .settings import IMAGE_COLUMNS, Settings
from .tar_stream import Member, TarStream

# Members of one base name that are looked at together.
_MAX_GROUP = 64
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM")
_IMAGES = (*IMAGE_COLUMNS, "image/encoded", "image_raw")
_HEAD, _FOOT = 12, 4  # bytes of length and checksum, of a second checksum
_MAX_RECORD = 1 << 30
# {name: bytes, number or list} of a record; None if it is no Example.
_Features = dict[str, Any] | None
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


@dataclass(slots=True)
class _Sample:
    key: str
    picture: Member | None
    texts: dict[str, Member] = field(default_factory=dict)  # by ending


class TarInput(StreamReader[_Sample]):
    """One tar of samples."""

    what = "samples"

    def __init__(self, file: InputFile, settings: Settings) -> None:
        super().__init__(file, settings)
        self._max_bytes = settings.limits.max_image_bytes
        self._tar = TarStream(file.path, file.name)

    def close(self) -> None:
        """Close the file."""
        self._tar.close()

    def samples(self, offset: int, counted: bool) -> Iterator[tuple[int, int, _Sample]]:
        """Yield (byte at which its group begins, samples before it in the group, sample)."""
        most = -1 if counted else max(self._max_bytes, MAX_TEXT_BYTES)
        for at, group in self._groups(offset, most, self.fates if counted else Fates()):
            for before, sample in enumerate(group):
                yield at, before, sample

    def id_of(self, sample: _Sample, number: int) -> str:
        """The tar's name and the key."""
        ends = (last for last in TARS if self._file.name.endswith(last))
        return f"{self._file.name.removesuffix(next(ends, ''))}/{sample.key}"

    def _groups(self, offset: int, most: int, fates: Fates) -> Iterator[tuple[int, list[_Sample]]]:
        """(offset of its first member, samples) of each run of members of one base name."""
        group: list[Member] = []
        for member in self._tar.members(offset, most, fates):
            if not self._counts(member, fates):
                continue
            if group and (_base(group[0]) != _base(member) or len(group) == _MAX_GROUP):
                yield group[0].offset, self._samples(group, fates)
                group = []
            group.append(member)
        if group:
            yield group[0].offset, self._samples(group, fates)

    def _counts(self, member: Member, fates: Fates) -> bool:
        """Whether a member may be a row or part of one; the others are counted."""
        parts = PurePosixPath(member.name).parts
        if _last(member) in PICTURES and _is_row(member.same_as):
            fates.skip(member.name, "a symbolic link to a picture that is read itself")
            return False
        if _is_data(parts) and not (_last(member) in PICTURES and derived(parts)):
            return True
        count_other(parts or ("?",), fates)
        return False

    def _samples(self, group: list[Member], fates: Fates) -> list[_Sample]:
        """Samples of a run of members.

        The format's rule: a key ends at the first dot of a file name, and what is behind it names a field. Where no
        field of a run is a picture by that rule, names have dots of their own: a key then ends at the last one. Of
        several pictures of a key one that is decoded is taken, the first by the name of its ending, and the rest are
        skipped by name.
        """
        base = _base(group[0])
        fields = {_field(member): member for member in group}
        pictures = [name for name in fields if f".{name}" in PICTURES]
        main = min(pictures, key=lambda name: (f".{name}" not in DECODED, name), default=None)
        if main is not None:
            texts = {
                last: fields[name] for last in TEXTS for name in (main + last, last[1:]) if name in fields
            }
            for name, member in fields.items():
                if name != main and _last(member) in PICTURES:
                    fates.skip(member.name, "a further picture of its sample")
            for member in group:
                if fields[_field(member)] is not member:
                    fates.skip(member.name, "a member of the same name behind it")
            return [_Sample(base, fields[main], texts)]
        samples: dict[str, _Sample] = {}
        pictures_of: dict[str, list[Member]] = {}
        for member in group:
            if _last(member) in PICTURES or (not _last(member) and self._is_picture(member)):
                pictures_of.setdefault(_stem(member), []).append(member)
        for key, several in pictures_of.items():
            taken = min(several, key=lambda member: _last(member) in PICTURES - DECODED)
            samples[key] = _Sample(key, taken)
            for member in several:
                if member is not taken:
                    fates.skip(member.name, "a further picture of its sample")
        for member in group:
            last, stem = _last(member), _stem(member)
            if last in TEXTS and stem in samples:
                samples[stem].texts.setdefault(last, member)
            elif last in TEXTS and not samples:
                # Half a sample: a generation whose picture is missing.
                samples[base] = _Sample(base, None, {last: member})
            elif last in TEXTS and base in samples and samples[base].picture is None:
                samples[base].texts.setdefault(last, member)
            elif stem not in samples:
                count_other(PurePosixPath(member.name).parts, fates)
        return list(samples.values())

    def _is_picture(self, member: Member) -> bool:
        """Whether a member without an ending is a picture by its first bytes."""
        first = member.data[:16] if member.data is not None else self._tar.first_bytes(member)
        return first.startswith(_SIGNATURES) or (first[:4] == b"RIFF" and first[8:12] == b"WEBP")

    def row_of(self, sample: _Sample, number: int) -> tuple[Row, str | None]:
        """The row of a sample, and its .json."""
        metadata, model, problem = None, None, None
        prompt, source = "", ""
        if ".json" in sample.texts:
            metadata = _text(sample.texts[".json"])
            facts = None if metadata is None else facts_of(metadata)
            if facts is None:
                problem = invalid("metadata", f"must be a JSON object of at most {MAX_TEXT_BYTES} bytes")
            elif isinstance(facts.get("model_id"), str):
                model = facts["model_id"]
        for last in TEXTS if "sidecar" in self._settings.prompt_from else ():
            if last in sample.texts and not prompt and not (last == ".json" and problem):
                data = sample.texts[last].data
                prompt, _, wrong = prompt_of_file(
                    f"x{last}", bytes(MAX_TEXT_BYTES + 1) if data is None else data
                )
                problem, source = problem or wrong, last[1:]
        picture = sample.picture
        if picture is None:
            problem = problem or invalid("image", "is missing from the sample")
        elif picture.problem:
            problem = problem or invalid("image", picture.problem)
        elif picture.size > self._max_bytes:
            problem = problem or invalid(
                "image", f"is {picture.size} bytes long; the limit is {self._max_bytes} bytes"
            )
        image = None if picture is None or picture.size > self._max_bytes else picture.data
        row = Row(
            self.id_of(sample, number),
            model,
            prompt,
            image,
            problem=problem,
            prompt_source=source if prompt else "",
        )
        return row, metadata


def _text(member: Member) -> str | None:
    return None if member.data is None or len(member.data) > MAX_TEXT_BYTES else decoded(member.data)


def _base(member: Member) -> str:
    """The key by the format's rule: the name up to the first dot of its last part."""
    path = PurePosixPath(member.name)
    return (path.parent / path.name.partition(".")[0]).as_posix()


def _is_data(parts: Sequence[str]) -> bool:
    return bool(parts) and not hidden(parts) and not bookkeeping(parts)


def _is_row(name: str) -> bool:
    """Whether a member of this name is read as a picture."""
    path = PurePosixPath(name)
    return ending(path.name) in PICTURES and _is_data(path.parts) and not derived(path.parts)


def _field(member: Member) -> str:
    return PurePosixPath(member.name).name.partition(".")[2].lower()


def _last(member: Member) -> str:
    return ending(PurePosixPath(member.name).name)


def _stem(member: Member) -> str:
    """The name up to its last dot."""
    path = PurePosixPath(member.name)
    return (path.parent / (path.name.rpartition(".")[0] or path.name)).as_posix()


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
        key = next((text for name in names if (text := _word(features.get(name)))), "")
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


def _word(value: Any) -> str:
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


_EXAMPLE = _message_class()
