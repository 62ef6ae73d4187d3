"""Between the client's types and protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from attributary.attribution.types import PHASES, AttributedItem, CreatorShare, Filter, Limits, Query
from attributary.errors import AttributaryError, InvalidArgumentError
from attributary.v1 import attribution_pb2 as pb

from .errors import from_result
from .types import Answer, BundleInfo, CalibrationInfo, CallOptions, Embedded, ReplyTimings, ShareParameters

T = TypeVar("T")
M = TypeVar("M", bound=Message)


def to_query(query: Query) -> pb.Query:
    """Return the message of a query; raises InvalidArgumentError for anything else."""
    if not isinstance(query, Query):
        raise InvalidArgumentError(
            "query", f"must be a Query, as `query(picture)` makes it, got {type(query).__name__}"
        )
    given: dict[str, Any] = {}
    if query.embedding is not None:
        given["embedding"] = _embedding(query)
    elif query.pixels is not None:
        height, width = query.pixels.shape[:2]
        given["pixels"] = pb.Pixels(data=query.pixels.tobytes(), height=height, width=width)
    elif query.image is not None:
        given["image"] = query.image
    return made(pb.Query, "query.", **given, prompt=query.prompt)


def attribute_request(query: Query, chosen: CallOptions) -> pb.AttributeRequest:
    """Return the message of one query; raises InvalidArgumentError for what cannot be sent."""
    return made(pb.AttributeRequest, query=to_query(query), **_options(chosen))


def batch_request(queries: Sequence[Query], chosen: CallOptions) -> pb.AttributeBatchRequest:
    """Return the message of several queries; raises InvalidArgumentError for what cannot be sent."""
    return made(pb.AttributeBatchRequest, queries=[to_query(query) for query in queries], **_options(chosen))


def read(kind: type[T], message: Message, **given: Any) -> T:
    """Return a dataclass made of the fields of a message that have its names, lists as tuples; `given` are others.

    An optional field that is absent is None.
    """
    assert is_dataclass(kind)
    for field in fields(kind):
        if field.name not in given:
            if message.DESCRIPTOR.fields_by_name[field.name].has_presence and not message.HasField(
                field.name
            ):
                given[field.name] = None
                continue
            value = getattr(message, field.name)
            given[field.name] = value if isinstance(value, str | bytes | int | float) else tuple(value)
    return kind(**given)


def from_attribution(message: pb.Attribution) -> Answer:
    """Return the answer to one query."""
    return read(
        Answer,
        message,
        items=tuple(read(AttributedItem, item) for item in message.items),
        creators=tuple(read(CreatorShare, total) for total in message.creators),
        timings=_timings(message.timings) if message.HasField("timings") else None,
    )


def from_outcome(message: pb.AttributeResult | pb.AttributeStreamResponse) -> Answer | AttributaryError:
    """Return the answer, or the error, of one query among several."""
    if message.HasField("error"):
        return from_result(message.error)
    return from_attribution(message.attribution)


def from_description(message: pb.DescribeBundleResponse) -> BundleInfo:
    """Return what the server serves."""
    limits, told = message.limits, message.calibration
    parameters = {name: read(ShareParameters, getattr(told, name)) for name in ("image", "image_and_prompt")}
    return read(
        BundleInfo,
        message,
        limits=read(Limits, limits),
        # Servers before it was there cut at max_top_k.
        max_top_creators=limits.max_top_creators or limits.max_top_k,
        calibration=read(CalibrationInfo, told, measured=dict(told.measured), **parameters),
    )


def from_embedding(message: pb.EmbedResponse) -> Embedded:
    """Return an embedding to ask with."""
    embedding = message.embedding
    import numpy as np

    vector = np.array(embedding.values, np.float32)
    certainty = embedding.certainty if embedding.HasField("certainty") else None
    return Embedded(vector, embedding.has_prompt, message.bundle_id, message.encoder_digest, certainty)


def made(kind: type[M], where: str = "", /, **values: Any) -> M:
    """Return a message with these fields; None leaves one out.

    Raises InvalidArgumentError, naming the field after `where`, for a value that it cannot hold: another type, a number
    out of its range, a text that is not Unicode (what a shell or a file gave may hold other bytes).
    """
    message = kind()
    for name, value in values.items():
        try:
            if isinstance(value, Message):
                getattr(message, name).CopyFrom(value)
            elif message.DESCRIPTOR.fields_by_name[name].is_repeated:
                getattr(message, name).extend(value)
            elif value is not None:
                setattr(message, name, value)
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                where + name, f"is not valid Unicode at character {error.start}"
            ) from None
        except (TypeError, ValueError):
            raise InvalidArgumentError(where + name, f"cannot be {value!r:.80}") from None
    return message


def _options(chosen: CallOptions) -> dict[str, Any]:
    unknown = chosen.keys() - CallOptions.__optional_keys__
    if unknown:
        # A filter under another name would filter nothing.
        raise InvalidArgumentError(
            f"options.{min(unknown)}",
            f"is not known; there are {', '.join(sorted(CallOptions.__optional_keys__))}",
        )
    given = dict(chosen)
    bundle_id, filter_ = given.pop("bundle_id", ""), given.pop("filter", None)
    options = made(pb.Options, "options.", **given)
    if filter_ is not None:
        if not isinstance(filter_, Filter):
            raise InvalidArgumentError("options.filter", f"must be a Filter, got {type(filter_).__name__}")
        options.filter.CopyFrom(made(pb.Filter, "options.filter.", **asdict(filter_)))
    return {"options": options, "bundle_id": bundle_id}


def _embedding(query: Query) -> pb.Embedding:
    import numpy as np

    values = np.asarray(query.embedding, np.float32).ravel().tolist()
    return pb.Embedding(
        values=values,
        has_prompt=query.has_prompt,
        certainty=query.certainty,
        encoder_digest=query.encoder_digest,
    )


def _timings(message: pb.Timings) -> ReplyTimings:
    spent = {name: getattr(message, f"{name}_ms") for name in (*PHASES, "total")}
    return ReplyTimings(**spent, batch_size=message.batch_size)
