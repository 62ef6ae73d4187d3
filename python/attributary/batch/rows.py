"""What travels between the stages of a run: shards, input rows, the batches they form, and their outcomes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

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


def invalid(field: str, message: str) -> Problem:
    """A problem of the row's own making."""
    return Problem("INVALID_ARGUMENT", field, message)


@dataclass(frozen=True, slots=True)
class Row:
    """One generation of a log. `image` holds encoded bytes; otherwise `uri` says where they are."""

    generation_id: str
    model_id: str | None = None
    prompt: str = ""  # as found
    image: bytes | None = None
    uri: str | None = None
    base: str = ""  # directory that a relative path in `uri` is below
    problem: Problem | None = None  # the row is wrong already
    prompt_source: str = ""  # where the prompt was found: "column", "txt", "json", ...
    root: str = ""  # directory that a path in `uri` may not lead out of


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows of one shard that go through the engine together."""

    rows: list[Row]
    passed: pa.RecordBatch  # the pass-through columns of the same rows
    fills_prompt: bool = False  # the column `prompt` of `passed` is to hold the prompt that was used


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to one row."""

    items: tuple[AttributedItem, ...]
    creators: tuple[CreatorShare, ...]  # only those with a share above 0
    diffuse_share: float
    withheld_share: float
    out_of_distribution: bool
    revision: int  # of the bundle, at the moment of the answer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row: an answer or a problem, exactly one of them."""

    image_sha256: str | None  # of the encoded bytes; None if there were none to be had
    has_prompt: bool | None  # whether the encoder was given the prompt; None without an answer
    scored: Scored | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive rows of one input file; all that a worker needs to read them."""

    number: int
    file: int  # place of the input file in the plan
    start: int  # first row in the file
    rows: int
    offset: int = 0  # where a tar is read from, bytes
    skip: int = 0  # rows between that place and the first row


@dataclass(slots=True)
class Fates:
    """Members of an input that are no rows, counted by reason."""

    skipped: Counter[str] = field(default_factory=Counter)  # may have been a generation, or belong to one
    ignored: Counter[str] = field(
        default_factory=Counter
    )  # no data, by the conventions of the tool that wrote it
    examples: dict[str, str] = field(default_factory=dict)  # the first member of each reason

    def skip(self, name: str, reason: str, count: int = 1) -> None:
        """Count members that no row stands for."""
        self.skipped[reason] += count
        self.examples.setdefault(reason, name)

    def ignore(self, name: str, reason: str, count: int = 1) -> None:
        """Count members that are nobody's data."""
        self.ignored[reason] += count
        self.examples.setdefault(reason, name)

    def add(self, other: Fates) -> None:
        """Add another input's."""
        self.skipped.update(other.skipped)
        self.ignored.update(other.ignored)
        self.examples = {**other.examples, **self.examples}


def nameless(file: str, row: int) -> str:
    """The id of a row that has none of its own."""
    return f"{file}#{row}"
