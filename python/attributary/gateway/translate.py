"""Between protobuf and the core's types, and what is seen of a message's bytes before protobuf reads them, or cannot.

Checks only what the core cannot see: how a query is spelled.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from attributary.attribution.prepare import Preparer
from attributary.attribution.score import certainties
from attributary.attribution.snapshot import Snapshot
from attributary.attribution.types import Filter, Limits, Options, Prepared, Query
from attributary.errors import InvalidArgumentError, check_range
from attributary.v1 import attribution_pb2 as pb

M = TypeVar("M", bound=Message)

_NO_FILTER = Filter()
FILTERS = tuple(field.name for field in fields(Filter))
_FIELDS: dict[tuple[type[Message], type], tuple[str, ...]] = {}
# Names are checked on the event loop; this many take it about a millisecond.
_MAX_NAMES = 10_000
_PACKED_FLOATS = 0x0A  # field 1, length-delimited
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 16
# This runs on the event loop: so many fields take some hundredths of a second, a message may hold a hundred million.
_MAX_FIELDS = 10_000
# What a message holds beside a repeated field, and how many too many are counted.
_FEW_FIELDS = 1_000
_MAX_OPTIONS_BYTES = 1 << 20
_SMALL_BYTES = 1 << 13
_NONE: Mapping[str, int] = MappingProxyType({})


def parse(kind: type[M], data: bytes) -> M:
    """Read a message; raises InvalidArgumentError naming the field that is not UTF-8, or "request"."""
    try:
        return kind.FromString(data)
    except DecodeError:
        field, problem = find_fault(data, kind.DESCRIPTOR)
        raise InvalidArgumentError(field, problem) from None


def write(kind: type[M], source: object, **given: Any) -> M:
    """Return a message made of the attributes of an object that have its fields' names; `given` are others.

    A field that the object has no attribute for stays unset.
    """
    key = kind, type(source)
    names = _FIELDS.get(key)
    if names is None:
        there = (name for name in kind.DESCRIPTOR.fields_by_name if hasattr(source, name))
        names = _FIELDS.setdefault(key, tuple(there))
    return kind(**{name: getattr(source, name) for name in names if name not in given}, **given)


def to_query(message: pb.Query, limits: Limits, field: str) -> Query:
    """Return the core's query; raises InvalidArgumentError with a path below `field`.

    Whether exactly one input is given is left to the engine to judge.
    """
    kind = message.WhichOneof("input")
    if kind == "embedding":
        embedding = message.embedding
        certainty = embedding.certainty if embedding.HasField("certainty") else None
        return Query(
            embedding=_floats(embedding),
            prompt=message.prompt,
            has_prompt=embedding.has_prompt,
            certainty=certainty,
            encoder_digest=embedding.encoder_digest,
        )
    if kind == "image":
        return Query(image=message.image, prompt=message.prompt)
    if kind == "pixels":
        return Query(pixels=_pixels(message.pixels, limits, f"{field}.pixels"), prompt=message.prompt)
    return Query(prompt=message.prompt)


def to_options(message: pb.Options) -> Options:
    """Return the core's options, unset counts as None; raises InvalidArgumentError for an overlong filter."""
    return Options(
        top_k=message.top_k if message.HasField("top_k") else None,
        top_creators=message.top_creators if message.HasField("top_creators") else None,
        filter=_filter(message.filter) if message.HasField("filter") else _NO_FILTER,
        digests=message.receipt,
    )


def describe(engine: Preparer) -> pb.DescribeBundleResponse:
    """Return what the engine serves."""
    snapshot, manifest, limits = engine.snapshot, engine.bundle.manifest, engine.limits
    return write(
        pb.DescribeBundleResponse,
        snapshot,
        bundle_id=manifest.bundle_id,
        bundle_version=manifest.version,
        subject_model=manifest.subject.id,
        encoder=manifest.encoder.name,
        dim=manifest.encoder.dim,
        image_size=manifest.encoder.image_size,
        max_tokens=manifest.encoder.max_tokens,
        index=manifest.index.factory,
        recall_at_10=manifest.index.recall_at_10,
        limits=write(pb.Limits, limits, max_top_creators=max(limits.max_top_k, snapshot.candidate_count)),
        calibration=_calibration(manifest),
        candidates=snapshot.candidate_count,
        encoder_digest=manifest.encoder.digest,
        names_in_prompts=manifest.names_in_prompts or "masked",
    )


def from_embedding(engine: Preparer, prepared: Prepared, vector: NDArray[np.float32]) -> pb.EmbedResponse:
    """Return the reply to Embed; `vector` float32 [D]."""
    manifest = engine.bundle.manifest
    digest = manifest.encoder.digest
    embedding = pb.Embedding(values=vector.tolist(), has_prompt=prepared.has_prompt, encoder_digest=digest)
    if manifest.calibration.pixels or prepared.certainty is not None:
        embedding.certainty = float(certainties(manifest.calibration, [prepared])[0])
    return pb.EmbedResponse(
        embedding=embedding,
        bundle_id=manifest.bundle_id,
        encoder_digest=digest,
    )


def item(engine: Preparer, item_id: int) -> pb.Item:
    """Return one training item; raises DeletedError, NotFoundError."""
    # One snapshot: another may hold no such row.
    snapshot = engine.snapshot
    return item_of_row(snapshot, snapshot.row_of(item_id))


def item_of_row(snapshot: Snapshot, row: int) -> pb.Item:
    """Return the training item of a row."""
    items = snapshot.bundle.items
    return write(pb.Item, items.record(row), creator_ids=items.ids_of(items.creator(row)))


def _calibration(manifest: Any) -> pb.Calibration:
    """What the manifest knows of its shares; its notes hold what was measured as JSON."""
    entry, notes = manifest.calibration, manifest.notes
    try:
        measured = json.loads(notes.get("measured", "{}"))
    except ValueError:
        measured = {}
    held_out = measured.get("held_out") if isinstance(measured, dict) else None
    digest = held_out.get("labels_digest") if isinstance(held_out, dict) else ""
    figures = dict(_figures(measured, ""))
    return pb.Calibration(
        method=entry.method,
        labels_digest=notes.get("calibration_labels_digest", ""),
        held_out_labels_digest=str(digest or ""),
        held_out_queries=int(figures.get("held_out.queries", 0)),
        measured=figures,
        image=write(pb.ShareParameters, entry.image),
        image_and_prompt=write(pb.ShareParameters, entry.image_and_prompt),
    )


def _figures(value: object, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _figures(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield path, float(value)


def _floats(embedding: pb.Embedding) -> NDArray[np.float32]:
    # A packed field serialises to its little-endian array: much faster than a loop over Python floats.
    count = len(embedding.values)
    data = embedding.SerializeToString(deterministic=True)
    start = 1 + max(1, ((4 * count).bit_length() + 6) // 7)
    if count and data[0] == _PACKED_FLOATS and len(data) >= start + 4 * count:
        return np.frombuffer(data, "<f4", count, start)
    return np.array(embedding.values, np.float32)


def _pixels(message: pb.Pixels, limits: Limits, field: str) -> NDArray[np.uint8]:
    height, width = message.height, message.width
    check_range(f"{field}.height", height, 1)
    check_range(f"{field}.width", width, 1)
    if height * width > limits.max_image_pixels:
        raise InvalidArgumentError(
            field, f"{height} x {width} is {height * width} pixels, the limit is {limits.max_image_pixels}"
        )
    data = message.data
    wanted = height * width * 3
    if len(data) != wanted:
        raise InvalidArgumentError(
            f"{field}.data", f"must have height * width * 3 = {wanted} bytes, got {len(data)}"
        )
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _filter(message: pb.Filter) -> Filter:
    lists: dict[str, Sequence[str]] = {name: getattr(message, name) for name in FILTERS}
    for name, names in lists.items():
        if len(names) > _MAX_NAMES:
            raise InvalidArgumentError(
                f"options.filter.{name}", f"must hold at most {_MAX_NAMES} names, got {len(names)}"
            )
    return Filter(**{name: tuple(names) for name, names in lists.items()})


if TYPE_CHECKING:
    from google._upb._message import Descriptor as UpbDescriptor

    AnyDescriptor: TypeAlias = Descriptor | UpbDescriptor


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
    seen = dict.fromkeys(counts, 0)
    options = 0
    most = sum(counts.values()) + _FEW_FIELDS
    try:
        for place, (number, _, value) in enumerate(_fields(memoryview(data))):
            if place == most:
                break
            field = kind.fields_by_number.get(number)
            name = field.name if field is not None else ""
            if name in seen:
                seen[name] += 1
            elif name == "options":
                options += len(value)
                if options > _MAX_OPTIONS_BYTES:
                    raise InvalidArgumentError("options", f"must have at most {_MAX_OPTIONS_BYTES} bytes")
            elif name == "request" and field is not None and field.message_type is not None:
                check_outline(value, field.message_type)
        else:
            return
    except _MalformedError:
        return
    for name, count in seen.items():
        if count > counts[name]:
            raise InvalidArgumentError(name, f"must hold 1 to {counts[name]} {name}, got more than {count}")
    raise InvalidArgumentError("request", f"has more than {most} fields")


def _invalid_text(
    data: memoryview, kind: AnyDescriptor, prefix: str, depth: int, left: Iterator[int]
) -> str | None:
    counts: Counter[int] = Counter()
    for number, wire_type, value in _fields(data):
        if next(left, None) is None:
            raise _MalformedError
        field = kind.fields_by_number.get(number)
        if field is None or wire_type != _BYTES:
            continue
        path = prefix + field.name
        if field.is_repeated:
            path += f"[{counts[number]}]"
            counts[number] += 1
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


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield (number, wire type, value) of each field."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire_type = tag & 7
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
        yield tag >> 3, wire_type, data[at:end]
        at = end


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
