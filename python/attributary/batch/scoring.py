"""A batch's way: fetch, decode, resize, tokenise (`prepare`), then the engine (`rows`). The same for every runner."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, cast

import pyarrow as pa

from attributary.attribution.checks import resolve_counts
from attributary.attribution.engine import Engine
from attributary.attribution.prepare import Preparer
from attributary.attribution.types import Attribution, Limits, Options, Prepared, Query
from attributary.bundle.names import NO_VALUE
from attributary.errors import (
    AttributaryError,
    BundleError,
    InvalidArgumentError,
    UnavailableError,
)

from .picture_tables import is_unicode
from .picture_text import picture_texts
from .pictures import picture_of
from .prompts import Prompt, of_picture, of_text
from .rows import Answered, Batch, BundleState, PreparedBatch, Problem, Row, batch_table, invalid
from .settings import Settings

_PREFIX = re.compile(r"^(?:row|query|queries\[\d+\])\.")
# What a request may ask for is this run's doing and not a row's.
_OWN_FIELDS = ("options", "bundle_id", "request")


class Scorer(ABC):
    """Attributes batches. Safe to call from several threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def bundle(self) -> BundleState:
        """Which bundle answers now; its id never changes."""

    @abstractmethod
    def query(self, data: bytes, prompt: str) -> Prepared | Query:
        """Make a query of an encoded picture and its prompt; what is wrong with them is raised."""

    @abstractmethod
    def ask(self, queries: Sequence[Any]) -> list[Answered]:
        """Answer queries of `query` together. Raises UnavailableError if the engine is away."""

    def prepare(self, batch: Batch) -> PreparedBatch:
        """Do what needs no engine. Raises UnavailableError if a store of pictures is away."""
        return prepare_rows(batch, self.settings, self.query)

    def rows(self, prepared: PreparedBatch, schema: pa.Schema, bundle_id: str) -> pa.RecordBatch:
        """Ask the engine, and return the batch's output rows, in order."""
        following = iter(self.ask(prepared.queries))
        outcomes = [problem or next(following) for problem in prepared.problems]
        return batch_table(schema, prepared, outcomes, bundle_id)

    def score(self, batch: Batch, schema: pa.Schema, bundle_id: str) -> pa.RecordBatch:
        """Take one batch all the way to its output rows."""
        return self.rows(self.prepare(batch), schema, bundle_id)

    def close(self) -> None:  # noqa: B027 - an engine in this process has nothing open
        """End connections."""


class EngineScorer(Scorer):
    """Scores with an engine in this process; a `Preparer` alone only prepares: rows to pixels and tokens."""

    def __init__(self, engine: Preparer, settings: Settings) -> None:
        super().__init__(settings)
        self._preparer = engine
        candidates = engine.bundle.manifest.index.candidates
        # Every candidate's creator, so that totals are whole.
        self.options = Options(settings.top_k, candidates, settings.filter)
        # Once here instead of once a row: what is wrong with it is no row's fault.
        resolve_counts(self.options, candidates, engine.limits)
        if settings.filter:
            engine.filters.check(settings.filter, "filter")

    def bundle(self) -> BundleState:
        """The open bundle, as of now."""
        snapshot = self._preparer.snapshot
        return BundleState(snapshot.bundle.manifest.bundle_id, snapshot.revision)

    def query(self, data: bytes, prompt: str) -> Prepared:
        """Decode, resize and tokenise."""
        return self._preparer.prepare(Query(image=data, prompt=prompt), self.options, "row")

    def ask(self, queries: Sequence[Any]) -> list[Answered]:
        """Answer together; if the engine fails on that, one by one."""
        if not queries:
            return []
        try:
            return [*self.run(queries)]
        except (UnavailableError, BundleError, MemoryError):
            raise
        except Exception as error:
            if len(queries) == 1:
                return [problem_of(error)]
            # One of them makes the batch fail: each is asked alone.
            return [outcome for query in queries for outcome in self.ask([query])]

    def run(self, queries: Sequence[Prepared]) -> list[Attribution]:
        """Encode, search and re-score."""
        return cast(Engine, self._preparer).run(queries)


def engine_limits(settings: Settings) -> Limits:
    """Limits for the engine of a run: a row's own."""
    return Limits(**asdict(settings.limits), max_top_k=max(1_000, settings.top_k))


def prepare_rows(
    batch: Batch, settings: Settings, query_of: Callable[[bytes, str], Prepared | Query]
) -> PreparedBatch:
    """Fetch each row's picture, find its prompt and make a query of both; what is wrong with a row is its outcome."""
    prepared = PreparedBatch([], batch.passed, [], [], [], [])
    for row in batch.rows:
        digest, prompt, problem = None, Prompt(), row.problem or _not_text(row)
        try:
            prompt = _prompt_of_log(row) if _not_text(row) is None else prompt
            if problem is None:
                data = picture_of(row, settings.limits.max_image_bytes, settings.access)
                digest = hashlib.sha256(data).hexdigest()
                prompt = _prompt_of_picture(prompt, data, settings.prompt_from)
                problem = _no_unicode("prompt", prompt.text)
            if problem is None:
                prepared.queries.append(query_of(data, prompt.text))
        except (UnavailableError, BundleError, MemoryError):
            raise
        except Exception as error:
            # No value that a row can hold ends a run.
            problem = problem_of(error)
        prepared.ids.append((row.generation_id, row.model_id if is_unicode(row.model_id or "") else None))
        prepared.digests.append(digest)
        prepared.prompts.append(prompt if is_unicode(prompt.original + prompt.text) else Prompt())
        prepared.problems.append(problem)
    if batch.fills_prompt:
        place = batch.passed.schema.get_field_index("prompt")
        used = pa.array([prompt.text or None for prompt in prepared.prompts], pa.string())
        prepared.passed = batch.passed.set_column(place, batch.passed.schema.field(place), used)
    return prepared


def _prompt_of_log(row: Row) -> Prompt:
    if row.prompt.strip() in NO_VALUE:
        return Prompt()
    return of_text(row.prompt, row.prompt_source or "column")


def _prompt_of_picture(found: Prompt, data: bytes, order: Sequence[str]) -> Prompt:
    """The prompt in a picture's file, where the log has none or the file comes before it."""
    if "picture" not in order or (found.text and order[0] != "picture"):
        return found
    inside = of_picture(picture_texts(data))
    return inside if inside.text else found


def _not_text(row: Row) -> Problem | None:
    return _no_unicode("prompt", row.prompt) or _no_unicode("model_id", row.model_id)


def _no_unicode(field: str, text: str | None) -> Problem | None:
    """A problem if a text cannot be written: JSON may hold halves of characters."""
    return None if is_unicode(text or "") else invalid(field, "is not valid Unicode")


def problem_of(error: Exception) -> Problem:
    """Say what is wrong with a row; raises the error again if it is not the row's fault."""
    if isinstance(error, InvalidArgumentError):
        if error.field.startswith(_OWN_FIELDS):
            raise error
        return invalid(_PREFIX.sub("", error.field), error.message)
    if isinstance(error, AttributaryError):
        raise error
    # Its text may differ from run to run (addresses, sizes of buffers); its kind does not.
    return Problem("INTERNAL", "", f"the engine failed on this row: {type(error).__name__}")
