"""What travels between the stages of a run: input rows, the batches they form, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from attributary.attribution.types import AttributedItem, CreatorShare


@dataclass(frozen=True, slots=True)
class BundleState:
    """Which bundle answers, and after how many changes to it."""

    id: str
    revision: int = 0  # of its journal; 0 without one


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row has no answer. `code` is gRPC's name for the kind of error, `field` the path of the value at fault."""

    code: str
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Row:
    """One generation of a log. `image` holds encoded bytes; otherwise `uri` says where they are."""

    generation_id: str
    model_id: str | None = None
    prompt: str = ""
    image: bytes | None = None
    uri: str | None = None
    base: str = ""  # directory that a relative path in `uri` is below
    problem: Problem | None = None  # the row is wrong already


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows of one shard that go through the engine together."""

    rows: list[Row]
    passed: pa.RecordBatch  # the pass-through columns of the same rows


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to one row."""

    items: tuple[AttributedItem, ...]
    creators: tuple[CreatorShare, ...]  # only those with a share above 0
    diffuse_share: float
    withheld_share: float
    out_of_distribution: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row: an answer or a problem, exactly one of them."""

    image_sha256: str | None  # of the encoded bytes; None if there were none to be had
    has_prompt: bool | None  # whether the encoder was given the prompt; None without an answer
    scored: Scored | None = None
    problem: Problem | None = None
