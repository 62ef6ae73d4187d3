"""The bytes of `attributary.v1.Attribution`: most of a reply was said before.

What a reply says of an item or a creator is the same in every reply but for a few numbers. So those bytes are kept, and
protobuf builds only what has not been said lately; the compiled writer (`kernels/bindings/reply.cpp`) puts the numbers
of an answer between them. Answers in words, of an engine on the network, are protobuf's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message

from attributary.attribution.score import Scored, reply_writer
from attributary.attribution.types import PHASES, AttributedItem, Attribution, CreatorShare, Timings
from attributary.v1 import attribution_pb2 as pb

from .translate import write

# Some hundred bytes each.
_KEPT: Final = 16_384
_RECEIPT: Final = pb.Attribution.RECEIPT_FIELD_NUMBER
_HAS_PROMPT: Final = b"\x58\x01"
_PER_REPLY: Final = ("rank", "similarity", "share", "item_count", "low", "high")
# In numbers as an engine of this process leaves it, or in words.
Answer: TypeAlias = Scored | Attribution


class Replies:
    """Writes the replies of one bundle. What it says of its items and creators is kept by row and by code."""

    def __init__(self, bundle_id: str, bundle_version: str) -> None:
        self._bundle = bundle_id, bundle_version
        self._same = pb.Attribution(bundle_id=bundle_id, bundle_version=bundle_version).SerializeToString()
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
            return _item(items.facts(row))

        def of_creator(code: int) -> bytes:
            name = items.creator_names[code]
            return _creator((name, items.ids_of(name)))

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


def attribution(answer: Attribution, bundle_id: str, bundle_version: str, receipt: bytes = b"") -> bytes:
    """Return the reply to one query, a serialised pb.Attribution without timings."""
    return write(
        pb.Attribution,
        answer,
        items=[write(pb.AttributedItem, item) for item in answer.items],
        creators=[write(pb.CreatorShare, total) for total in answer.creators],
        timings=None,
        receipt=receipt,
        bundle_id=bundle_id,
        bundle_version=bundle_version,
    ).SerializeToString()


def timings(spent: Timings, total_ms: float) -> bytes:
    """Return a serialised pb.Timings: milliseconds of a query by phase, and in all."""
    phases = {f"{phase}_ms": getattr(spent, phase) for phase in PHASES}
    return pb.Timings(**phases, total_ms=total_ms, batch_size=spent.batch_size).SerializeToString()


def embedded(field: int, data: bytes) -> bytes:
    """Return bytes as a field (a message, a text) of the message around them."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """Return a number from 0 as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fixed(source: type, kind: type[Message]) -> Callable[[Sequence[Any]], bytes]:
    """What writes the values of an object that are the same in every reply."""
    names = [field.name for field in fields(source) if field.name not in _PER_REPLY]
    return lambda values: kind(**dict(zip(names, values, strict=True))).SerializeToString()


_item, _creator = _fixed(AttributedItem, pb.AttributedItem), _fixed(CreatorShare, pb.CreatorShare)
