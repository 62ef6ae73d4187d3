"""The bytes of `attributary.v1.Attribution`, put together by hand: most of a reply was said before.

What a reply says of an item or a creator is the same in every reply but for a few numbers. So those bytes are kept, and
protobuf builds only what has not been said lately. Answers that are still numbers go through the compiled writer
(`kernels/bindings/reply.cpp`); those in words, of an engine on the network, are written here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from struct import Struct
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message

from attributary.attribution.score import Scored, reply_writer
from attributary.attribution.types import PHASES, AttributedItem, Attribution, CreatorShare, Timings
from attributary.v1 import attribution_pb2 as pb

# Some hundred bytes each.
_KEPT: Final = 16_384
_RECEIPT: Final = pb.Attribution.RECEIPT_FIELD_NUMBER
_HAS_PROMPT: Final = b"\x58\x01"
_PER_REPLY = ("rank", "similarity", "share", "item_count", "low", "high")
# Tags of float fields: number and wire type 5.
_SIMILARITY_AND_SHARE = Struct("<BfBf")
_FLOAT = Struct("<Bf")
_PHASES = [(pb.Timings.DESCRIPTOR.fields_by_name[f"{phase}_ms"].number << 3 | 5, phase) for phase in PHASES]
_TOTAL = pb.Timings.TOTAL_MS_FIELD_NUMBER << 3 | 5
_TIMINGS = Struct("<" + "Bf" * (len(_PHASES) + 1))
_BATCH_SIZE = bytes([pb.Timings.BATCH_SIZE_FIELD_NUMBER << 3])


# In numbers as an engine of this process leaves it, or in words.
Answer: TypeAlias = Scored | Attribution


class Replies:
    """Writes the replies of one bundle. What it says of its items and creators is kept by row and by code."""

    def __init__(self, bundle_id: str, bundle_version: str) -> None:
        self._bundle = bundle_id, bundle_version
        self._same = _same_bundle(bundle_id, bundle_version)
        self._items: dict[int, bytes] = {}
        self._creators: dict[int, bytes] = {}
        self._write = reply_writer()

    def write(self, answer: Answer, receipt: bytes = b"") -> bytes:
        """Return the reply to one query, a serialised pb.Attribution without timings."""
        if self._write is None or isinstance(answer, Attribution):
            return attribution(whole(answer), *self._bundle, receipt)
        for kept in (self._items, self._creators):
            if len(kept) > _KEPT:
                kept.clear()
        items, scored, ends = answer.snapshot.bundle.items, answer.scored, answer.ends()

        def of_item(row: int) -> bytes:
            return _same_item(items.facts(row))

        def of_creator(code: int) -> bytes:
            name = items.creator_names[code]
            return _same_creator((name, items.ids_of(name)))

        low, high = (None, None) if ends is None else ends
        row = answer.row
        body = self._write(
            self._items, of_item, answer.items, answer.similarity, answer.share,
            self._creators, of_creator, scored.creators[row], scored.creator_share[row],
            scored.creator_items[row], low, high,
            answer.prepared.top_creators, scored.diffuse[row], scored.withheld[row],
            answer.flagged, answer.unjudged, answer.snapshot.revision, self._same,
        )  # fmt: skip
        body += _HAS_PROMPT if answer.prepared.has_prompt else b""
        return body + embedded(_RECEIPT, receipt) if receipt else body


def whole(answer: Answer) -> Attribution:
    """An answer in words."""
    return answer if isinstance(answer, Attribution) else answer.attribution()


def attribution(
    answer: Attribution,
    bundle_id: str,
    bundle_version: str,
    receipt: bytes = b"",
) -> bytes:
    """Return the reply to one query, a serialised pb.Attribution without timings."""
    parts: list[bytes] = []
    for item in answer.items:
        body = b"".join((
            _same_item(_of_item(item)),
            b"\x10",
            varint(item.rank),
            _SIMILARITY_AND_SHARE.pack(0x1D, item.similarity, 0x25, item.share),
        ))  # fmt: skip
        parts += (b"\x0a", varint(len(body)), body)
    for total in answer.creators:
        body = _same_creator(_of_creator(total)) + _FLOAT.pack(0x15, total.share) + b"\x18"
        body += varint(total.item_count)
        if total.low is not None and total.high is not None:
            body += _FLOAT.pack(0x25, total.low) + _FLOAT.pack(0x2D, total.high)
        parts += (b"\x12", varint(len(body)), body)
    parts += (
        _FLOAT.pack(0x1D, answer.diffuse_share),
        b"\x20\x01" if answer.out_of_distribution else b"",
        _same_bundle(bundle_id, bundle_version),
        _FLOAT.pack(0x45, answer.withheld_share),
        b"\x48",
        varint(answer.revision),
        b"\x50\x01" if answer.unjudged else b"",
        _HAS_PROMPT if answer.has_prompt else b"",
    )
    if receipt:
        parts.append(embedded(_RECEIPT, receipt))
    return b"".join(parts)


def timings(spent: Timings, total_ms: float) -> bytes:
    """Return a serialised pb.Timings: milliseconds of a query by phase, and in all."""
    tagged = [part for tag, phase in _PHASES for part in (tag, getattr(spent, phase))]
    return _TIMINGS.pack(*tagged, _TOTAL, total_ms) + _BATCH_SIZE + varint(spent.batch_size)


def embedded(field: int, data: bytes) -> bytes:
    """Return bytes as a field (a message, a text) of the message around them."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """Return a number from 0 as protobuf writes it."""
    return _VARINTS[value] if value < len(_VARINTS) else _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS: Final = tuple(map(_varint, range(2_048)))


def _same(source: type, kind: type[Message]) -> tuple[Callable[[Any], Any], Callable[[Sequence[Any]], bytes]]:
    """What of an object is the same in every reply: how to get it, and its bytes."""
    names = [field.name for field in fields(source) if field.name not in _PER_REPLY]

    @lru_cache(_KEPT)
    def write(values: Sequence[Any]) -> bytes:
        return kind(**dict(zip(names, values, strict=True))).SerializeToString()

    return attrgetter(*names), write


_of_item, _same_item = _same(AttributedItem, pb.AttributedItem)
_of_creator, _same_creator = _same(CreatorShare, pb.CreatorShare)


@lru_cache(64)
def _same_bundle(bundle_id: str, bundle_version: str) -> bytes:
    return pb.Attribution(bundle_id=bundle_id, bundle_version=bundle_version).SerializeToString()
