"""Filling a Milvus collection from a bundle: in order, a batch at a time, so that a push that was cut resumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from attributary.bundle.bundle import Bundle
from attributary.errors import BundleError, InvalidArgumentError, check_range

from .milvus import check_label, collection_of
from .milvus_client import LABEL, Label, MilvusServer, named
from .planning import Choice, MilvusPlan, plan_milvus

# One insert stays well below the 64 MiB that Milvus takes in a message.
_BATCH_BYTES = 16 << 20
_MAX_BATCH_ROWS = 20_000
_NEVER = float("inf")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How a bundle is laid out in Milvus."""

    collection: str = ""  # empty: named after the bundle
    index_type: Choice = "auto"
    shards: int = 1  # channels that writes are spread over
    replicas: int = 1  # copies in memory, each on query nodes of its own
    segment_rows: int | None = None
    force: bool = False  # drop what the collection holds now

    def __post_init__(self) -> None:
        for name, most in (("shards", 16), ("replicas", 1_000)):
            check_range(name, getattr(self, name), 1, most)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push left behind."""

    collection: str
    rows: int  # in the collection
    sent: int  # by this push
    plan: MilvusPlan


def push(
    bundle: Bundle, server: MilvusServer, options: PushOptions, progress: Progress = lambda *_: None
) -> Pushed:
    """Bring a bundle's vectors into a collection, index and load it. Repeating it is cheap and harmless.

    A collection of the same bundle is finished from where it stopped. Raises BundleError if the collection holds
    something else and `force` is not given, InvalidArgumentError if Milvus has no such index, UnavailableError.
    """
    manifest = bundle.manifest
    collection = options.collection or collection_of(manifest.bundle_id)
    dim = manifest.encoder.dim
    label = Label(
        manifest.bundle_id,
        manifest.index.encoder_digest,
        manifest.item_count,
        dim,
        max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // (4 * dim))),
        _plan(bundle, server, options),
    )
    _create_or_resume(bundle, server, collection, label, options)
    sent = _fill(bundle, server, collection, label.batch_rows, progress)
    server.call("flush", collection, timeout_s=_NEVER)
    _index(server, collection, label.plan)
    server.call("load_collection", collection, replica_number=options.replicas, timeout_s=_NEVER)
    rows = server.count(collection)
    if rows != len(bundle.items):
        raise BundleError(named(collection), f"holds {rows} rows after a push of {len(bundle.items)}")
    return Pushed(collection, rows, sent, label.plan)


def drop(server: MilvusServer, collection: str) -> None:
    """Remove a collection; raises BundleError if it is not there or was not made by `push`."""
    if server.label(collection) is None:
        raise BundleError(named(collection), "was not made by `attributary index push`; it is left as it is")
    server.call("drop_collection", collection)


def _plan(bundle: Bundle, server: MilvusServer, options: PushOptions) -> MilvusPlan:
    entry = bundle.manifest.index
    if server.is_lite and options.index_type == "gpu":
        raise InvalidArgumentError("index_type", "milvus-lite has no GPU indexes; use a Milvus with GPUs")
    choice: Choice = "flat" if server.is_lite else options.index_type
    return plan_milvus(
        entry, bundle.manifest.item_count, bundle.manifest.encoder.dim, choice, options.segment_rows
    )


def _create_or_resume(
    bundle: Bundle, server: MilvusServer, collection: str, label: Label, options: PushOptions
) -> None:
    if server.call("has_collection", collection):
        if not options.force:
            present = check_label(server.label(collection), bundle, collection)
            if present != label:
                raise BundleError(
                    named(collection),
                    f"is laid out as {present.plan.index_type} {present.plan.build}, asked for "
                    f"{label.plan.index_type} {label.plan.build}; --force builds it anew",
                )
            return
        server.call("drop_collection", collection)
    # milvus-lite keeps properties and drops descriptions; on a cluster it is the description that is free text.
    text = label.to_json()
    schema = MilvusClient.create_schema(
        auto_id=False, enable_dynamic_field=False, description="" if server.is_lite else text
    )
    schema.add_field("row", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=label.dim)
    schema.add_field("creator", DataType.INT32)
    schema.add_field("licence", DataType.INT32)
    properties: dict[str, Any] = {"properties": {LABEL: text}} if server.is_lite else {}
    server.call(
        "create_collection",
        collection,
        schema=schema,
        num_shards=options.shards,
        consistency_level="Bounded",
        **properties,
    )


def _fill(bundle: Bundle, server: MilvusServer, collection: str, batch_rows: int, progress: Progress) -> int:
    total = len(bundle.items)
    held = _held(server, collection)
    # A batch that was cut may be there in part: it is the one that is written over.
    start = held // batch_rows * batch_rows if held < total else total
    items = bundle.items
    for first in range(start, total, batch_rows):
        rows = range(first, min(total, first + batch_rows))
        vectors = np.asarray(bundle.vectors[rows.start : rows.stop], np.float32)
        batch = [
            {
                "row": row,
                "vector": vector,
                "creator": int(items.creator_of_row[row]),
                "licence": int(items.licence_of_row[row]),
            }
            for row, vector in zip(rows, vectors, strict=True)
        ]
        server.call("upsert" if first < held else "insert", collection, data=batch, timeout_s=600.0)
        progress(rows.stop, total)
    return total - start


def _held(server: MilvusServer, collection: str) -> int:
    """Rows that a collection holds already; one without an index was never searched and may hold rows all the same."""
    server.call("flush", collection, timeout_s=_NEVER)
    return int(server.call("get_collection_stats", collection)["row_count"])


def _index(server: MilvusServer, collection: str, plan: MilvusPlan) -> None:
    present = set(server.call("list_indexes", collection))
    fields: list[tuple[str, str, dict[str, object]]] = [
        ("vector", plan.index_type, {"metric_type": "IP", "params": plan.build}),
        ("creator", "INVERTED", {}),
        ("licence", "INVERTED", {}),
    ]
    for field, kind, extra in fields:
        if field in present:
            continue
        parameters = MilvusClient.prepare_index_params()
        parameters.add_index(field_name=field, index_name=field, index_type=kind, **extra)
        server.call("create_index", collection, parameters, timeout_s=_NEVER)
