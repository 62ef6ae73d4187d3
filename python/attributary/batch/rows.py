"""What travels between the stages of a run: shards, input rows, the batches they form, their outcomes, output rows.

Of the output columns are only added, and then the version is raised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from attributary.attribution.types import AttributedItem, Attribution, CreatorShare, Prepared, Query
from attributary.client.types import Answer
from attributary.errors import InputError

from .prompts import Prompt

SCHEMA_VERSION = 3

_ITEM = pa.struct(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("creator", pa.string(), nullable=False),
    ]
)
_CREATOR = pa.struct(
    [
        pa.field("creator", pa.string(), nullable=False),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("item_count", pa.int32(), nullable=False),
        pa.field("low", pa.float32()),
        pa.field("high", pa.float32()),
    ]
)
_BEFORE = (pa.field("generation_id", pa.string(), nullable=False), pa.field("model_id", pa.string()))
_AFTER = (
    pa.field("image_sha256", pa.string()),
    pa.field("has_prompt", pa.bool_()),
    pa.field("bundle_id", pa.string(), nullable=False),
    pa.field("bundle_revision", pa.int64()),
    pa.field("items", pa.list_(pa.field("element", _ITEM, nullable=False))),
    pa.field("creators", pa.list_(pa.field("element", _CREATOR, nullable=False))),
    pa.field("diffuse_share", pa.float32()),
    pa.field("withheld_share", pa.float32()),
    pa.field("out_of_distribution", pa.bool_()),
    pa.field("error_code", pa.string()),
    pa.field("error_field", pa.string()),
    pa.field("error_message", pa.string()),
    # Version 2.
    pa.field("prompt_used", pa.string()),
    pa.field("prompt_original", pa.string()),
    pa.field("prompt_source", pa.string()),
)
# Columns that are one value of an answer, and of a problem.
_OF_ANSWER = {
    **{name: name for name in ("has_prompt", "diffuse_share", "withheld_share", "out_of_distribution")},
    "bundle_revision": "revision",
}
_OF_PROBLEM = {"error_code": "code", "error_field": "field"}
OWN_COLUMNS = tuple(field.name for field in (*_BEFORE, *_AFTER))


def output_schema(passed: pa.Schema, first_file: str) -> pa.Schema:
    """Return the schema of a run's shards: ids, the columns that pass through, answers.

    Raises InputError naming a column of the log that would take the place of one of the output's.
    """
    for name in passed.names:
        if name in OWN_COLUMNS:
            raise InputError(first_file, "has the name of an output column", f"column {name}")
    return pa.schema([*_BEFORE, *passed, *_AFTER])


def batch_table(
    schema: pa.Schema, batch: PreparedBatch, outcomes: Sequence[Answered], bundle_id: str
) -> pa.RecordBatch:
    """Put what became of a batch's rows into output rows."""
    answers = [None if isinstance(one, Problem) else one for one in outcomes]
    problems = [one if isinstance(one, Problem) else None for one in outcomes]
    prompts = batch.prompts
    columns: dict[str, Any] = {
        "generation_id": [generation_id for generation_id, _ in batch.ids],
        "model_id": [model_id for _, model_id in batch.ids],
        "image_sha256": batch.digests,
        "bundle_id": [bundle_id] * len(outcomes),
        "items": [answer and _structs(answer.items, _ITEM) for answer in answers],
        "creators": [
            answer and _structs([total for total in answer.creators if total.share > 0], _CREATOR)
            for answer in answers
        ],
        "error_message": [problem and _clean(problem.message) for problem in problems],
        "prompt_used": [prompt.text or None for prompt in prompts],
        "prompt_original": [
            prompt.original if prompt.original != prompt.text else None for prompt in prompts
        ],
        "prompt_source": [prompt.source or None for prompt in prompts],
    }
    for column, name in _OF_ANSWER.items():
        columns[column] = [None if answer is None else getattr(answer, name) for answer in answers]
    for column, name in _OF_PROBLEM.items():
        columns[column] = [None if problem is None else getattr(problem, name) for problem in problems]
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else batch.passed.column(field.name)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _structs(entries: Iterable[AttributedItem | CreatorShare], kind: pa.StructType) -> list[dict[str, Any]]:
    """Items or creators of an answer, as the output has them."""
    names = [kind.field(place).name for place in range(kind.num_fields)]
    return [{name: getattr(one, name) for name in names} for one in entries]


def _clean(message: str) -> str:
    # A message may quote bytes of the log.
    return message.encode("utf-8", "backslashreplace").decode()


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


@dataclass(slots=True)
class PreparedBatch:
    """A batch ready for the engine, row by row; `problems` has what is wrong with rows already, None for the others.

    Picklable.
    """

    ids: list[tuple[str, str | None]]  # (generation_id, model_id)
    passed: pa.RecordBatch
    problems: list[Problem | None]
    digests: list[str | None]  # of the encoded bytes; None if there were none to be had
    queries: list[Prepared | Query]  # of the rows without a problem, in order
    prompts: list[Prompt]


# What becomes of a row. What an answer holds of creators without a share is not written.
Answered: TypeAlias = Attribution | Answer | Problem


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
    # No data, by the conventions of the tool that wrote it.
    ignored: Counter[str] = field(default_factory=Counter)
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
