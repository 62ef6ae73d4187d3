"""Between the client's types and protobuf."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attributary.attribution.types import AttributedItem, CreatorShare, Limits, Query
from attributary.errors import AttributaryError, InvalidArgumentError
from attributary.v1 import attribution_pb2 as pb

from .errors import from_result
from .types import (
    Answer,
    Asked,
    BundleInfo,
    CalibrationInfo,
    Embedded,
    Item,
    ReplyTimings,
    ShareParameters,
)

_MOST = 2**32 - 1


def to_query(query: Query) -> pb.Query:
    """Return the message of a query; raises InvalidArgumentError for a prompt that is no text."""
    prompt = sendable(query.prompt, "query.prompt")
    if query.embedding is not None:
        return pb.Query(embedding=_embedding(query), prompt=prompt)
    if query.pixels is not None:
        height, width = query.pixels.shape[:2]
        pixels = pb.Pixels(data=query.pixels.tobytes(), height=height, width=width)
        return pb.Query(pixels=pixels, prompt=prompt)
    if query.image is not None:
        return pb.Query(image=query.image, prompt=prompt)
    return pb.Query(prompt=prompt)


def attribute_request(query: Query, asked: Asked) -> pb.AttributeRequest:
    """Return the message of one query; raises InvalidArgumentError for what cannot be sent."""
    return pb.AttributeRequest(
        query=to_query(query),
        options=_options(asked),
        bundle_id=sendable(asked.get("bundle_id", ""), "bundle_id"),
    )


def batch_request(queries: Sequence[Query], asked: Asked) -> pb.AttributeBatchRequest:
    """Return the message of several queries; raises InvalidArgumentError for what cannot be sent."""
    return pb.AttributeBatchRequest(
        queries=[to_query(query) for query in queries],
        options=_options(asked),
        bundle_id=sendable(asked.get("bundle_id", ""), "bundle_id"),
    )


def from_attribution(message: pb.Attribution) -> Answer:
    """Return the answer to one query."""
    return Answer(
        items=tuple(
            AttributedItem(
                item.id,
                item.rank,
                item.similarity,
                item.share,
                item.caption,
                item.creator,
                item.licence,
                item.uri,
                item.creator_url,
                item.near_dup_group,
                tuple(item.creator_ids),
            )
            for item in message.items
        ),
        creators=tuple(
            CreatorShare(total.creator, total.share, total.item_count, creator_ids=tuple(total.creator_ids))
            for total in message.creators
        ),
        diffuse_share=message.diffuse_share,
        withheld_share=message.withheld_share,
        out_of_distribution=message.out_of_distribution,
        bundle_id=message.bundle_id,
        bundle_version=message.bundle_version,
        timings=_timings(message.timings) if message.HasField("timings") else None,
        revision=message.revision,
        receipt=message.receipt,
    )


def from_outcome(message: pb.AttributeResult | pb.AttributeStreamResponse) -> Answer | AttributaryError:
    """Return the answer, or the error, of one query among several."""
    if message.HasField("error"):
        return from_result(message.error)
    return from_attribution(message.attribution)


def from_item(message: pb.Item) -> Item:
    """Return one training item."""
    return Item(
        message.id,
        message.caption,
        message.creator,
        message.creator_url,
        message.licence,
        message.uri,
        message.near_dup_group,
        tuple(message.creator_ids),
    )


def from_description(message: pb.DescribeBundleResponse) -> BundleInfo:
    """Return what the server serves."""
    limits = message.limits
    return BundleInfo(
        bundle_id=message.bundle_id,
        bundle_version=message.bundle_version,
        subject_model=message.subject_model,
        encoder=message.encoder,
        dim=message.dim,
        image_size=message.image_size,
        max_tokens=message.max_tokens,
        item_count=message.item_count,
        creator_count=message.creator_count,
        index=message.index,
        recall_at_10=message.recall_at_10,
        limits=Limits(
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
            max_prompt_bytes=limits.max_prompt_bytes,
            max_top_k=limits.max_top_k,
            max_batch_queries=limits.max_batch_queries,
        ),
        # Servers before it was there cut at max_top_k.
        max_top_creators=limits.max_top_creators or limits.max_top_k,
        revision=message.revision,
        added_count=message.added_count,
        deleted_count=message.deleted_count,
        calibration=_calibration(message.calibration),
        candidates=message.candidates,
        encoder_digest=message.encoder_digest,
    )


def from_embedding(message: pb.EmbedResponse) -> Embedded:
    """Return an embedding to ask with."""
    embedding = message.embedding
    vector = np.array(embedding.values, np.float32)
    return Embedded(vector, embedding.has_prompt, message.bundle_id, message.encoder_digest)


def _calibration(message: pb.Calibration) -> CalibrationInfo:
    return CalibrationInfo(
        message.method,
        message.labels_digest,
        message.held_out_labels_digest,
        message.held_out_queries,
        dict(message.measured),
        _parameters(message.image),
        _parameters(message.image_and_prompt),
    )


def _parameters(message: pb.ShareParameters) -> ShareParameters:
    return ShareParameters(
        message.temperature,
        message.threshold,
        message.background,
        message.ood_similarity,
        message.diffuse_floor,
    )


def _options(asked: Asked) -> pb.Options:
    top_k, top_creators = asked.get("top_k"), asked.get("top_creators")
    for name, value in (("top_k", top_k), ("top_creators", top_creators)):
        if value is not None and not 0 <= value <= _MOST:
            raise InvalidArgumentError(f"options.{name}", f"must be from 0 to {_MOST}, got {value}")
    message = pb.Options(top_k=top_k, top_creators=top_creators, timings=asked.get("timings", False))
    message.receipt = asked.get("receipt", False)
    filter_ = asked.get("filter")
    if filter_:
        message.filter.CopyFrom(
            pb.Filter(
                **{
                    name: [sendable(value, f"options.filter.{name}") for value in getattr(filter_, name)]
                    for name in (
                        "include_creators",
                        "exclude_creators",
                        "include_licences",
                        "exclude_licences",
                    )
                }
            )
        )
    return message


def sendable(value: str, field: str) -> str:
    """Return a text that can be sent; what a shell or a file gave may hold bytes that are none."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(field, f"is not valid Unicode at character {error.start}") from None
    return value


def _embedding(query: Query) -> pb.Embedding:
    assert query.embedding is not None
    values = np.ascontiguousarray(query.embedding, "<f4").tobytes()
    # The wire form of a packed field is its little-endian array: no loop over Python floats.
    message = pb.Embedding.FromString(b"\x0a" + _varint(len(values)) + values) if values else pb.Embedding()
    message.has_prompt = query.has_prompt
    return message


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _timings(message: pb.Timings) -> ReplyTimings:
    return ReplyTimings(
        queue=message.queue_ms,
        decode=message.decode_ms,
        preprocess=message.preprocess_ms,
        tokenize=message.tokenize_ms,
        encode=message.encode_ms,
        search=message.search_ms,
        rescore=message.rescore_ms,
        assemble=message.assemble_ms,
        total=message.total_ms,
        batch_size=message.batch_size,
    )
