"""Answers as tables, for those who ask in bulk: one row an item of an answer, or an item of a page."""

from __future__ import annotations

import io
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.message import Message

from attributary.v1 import attribution_pb2 as pb

ARROW: Final = "application/vnd.apache.arrow.stream"
PARQUET: Final = "application/vnd.apache.parquet"

_ANSWER: Final[list[tuple[str, pa.DataType]]] = [
    ("query", pa.uint32()),  # its place in the request
    ("rank", pa.uint32()),  # 0 in the only row of a query without items
    ("id", pa.int64()),
    ("similarity", pa.float32()),
    ("share", pa.float32()),
    ("caption", pa.string()),
    ("creator", pa.string()),
    ("licence", pa.string()),
    ("uri", pa.string()),
    ("diffuse_share", pa.float32()),
    ("withheld_share", pa.float32()),
    ("out_of_distribution", pa.bool_()),
    ("bundle_id", pa.string()),
    ("revision", pa.uint64()),
    ("error_code", pa.int32()),  # 0: an answer
    ("error_field", pa.string()),
    ("error_message", pa.string()),
]
_ITEM: Final[list[tuple[str, pa.DataType]]] = [
    ("id", pa.int64()),
    ("caption", pa.string()),
    ("creator", pa.string()),
    ("creator_url", pa.string()),
    ("licence", pa.string()),
    ("uri", pa.string()),
    ("near_dup_group", pa.int64()),
]

ANSWERS: Final = pa.schema(_ANSWER)
ITEMS: Final = pa.schema(_ITEM)


def wanted(accept: str) -> str:
    """Return the kind of table that an Accept header names, empty if it names none."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return next((kind for kind in kinds if kind in (ARROW, PARQUET)), "")


def table_of(message: Message) -> pa.Table:
    """Return an answer, a batch of answers or a page of items as a table."""
    if isinstance(message, pb.ListItemsResponse):
        rows = [{name: getattr(item, name) for name in ITEMS.names} for item in message.items]
        table = pa.Table.from_pylist(rows, schema=ITEMS)
        return table.replace_schema_metadata({"next_page_token": message.next_page_token})
    if isinstance(message, pb.AttributeResponse):
        rows = _rows(0, message.attribution)
    else:
        assert isinstance(message, pb.AttributeBatchResponse)
        rows = [
            row
            for place, result in enumerate(message.results)
            for row in (
                [_error(place, result.error)]
                if result.HasField("error")
                else _rows(place, result.attribution)
            )
        ]
    return pa.Table.from_pylist(rows, schema=ANSWERS)


def write(table: pa.Table, kind: str) -> bytes:
    """Return a table as the bytes of an Arrow stream or of a Parquet file."""
    out = io.BytesIO()
    if kind == PARQUET:
        pq.write_table(table, out)
    else:
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
    return out.getvalue()


def _rows(place: int, answer: pb.Attribution) -> list[dict[str, Any]]:
    whole = {
        "query": place,
        "diffuse_share": answer.diffuse_share,
        "withheld_share": answer.withheld_share,
        "out_of_distribution": answer.out_of_distribution,
        "bundle_id": answer.bundle_id,
        "revision": answer.revision,
        "error_code": 0,
    }
    names = ("rank", "id", "similarity", "share", "caption", "creator", "licence", "uri")
    rows = [{**whole, **{name: getattr(item, name) for name in names}} for item in answer.items]
    return rows or [{**whole, "rank": 0}]


def _error(place: int, error: pb.Error) -> dict[str, Any]:
    return {
        "query": place,
        "rank": 0,
        "error_code": error.code,
        "error_field": error.field,
        "error_message": error.message,
    }
