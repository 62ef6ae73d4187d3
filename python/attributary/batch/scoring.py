"""A batch's way: fetch, decode, resize, tokenise (`prepare`), then the engine (`answer`). The same for every runner."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from attributary.attribution.checks import resolve_counts
from attributary.attribution.engine import Engine
from attributary.attribution.prepare import Preparer
from attributary.attribution.types import Attribution, Limits, Options, Prepared, Query
from attributary.client.types import Answer
from attributary.errors import AttributaryError, BundleError, InvalidArgumentError, UnavailableError

from .picture_text import picture_texts
from .pictures import picture_of
from .prompts import Prompt, of_picture, of_text
from .rows import Batch, BundleState, Outcome, Problem, Row, Scored
from .schema import batch_table
from .settings import Settings

_PREFIX = re.compile(r"^(?:row|query|queries\[\d+\])\.")
# What a request may ask for is this run's doing and not a row's.
_OWN_FIELDS = ("options", "bundle_id", "request")


@dataclass(slots=True)
class PreparedBatch:
    """A batch ready for the engine; `outcomes` holds the rows that fell out already, None for the others. Picklable."""

    ids: list[tuple[str, str | None]]
    passed: pa.RecordBatch
    outcomes: list[Outcome | None]
    digests: list[str | None]
    queries: list[Prepared | Query]  # those without an outcome, in order
    prompts: list[Prompt]


class Scorer(Protocol):
    """Attributes batches. Safe to call from several threads."""

    def bundle(self) -> BundleState:
        """Which bundle answers now; its id never changes."""
        ...

    def prepare(self, batch: Batch) -> PreparedBatch:
        """Do what needs no engine. Raises UnavailableError if a store of pictures is away."""
        ...

    def answer(self, prepared: PreparedBatch) -> list[Outcome]:
        """Ask the engine; one outcome a row, in order. Raises UnavailableError if the engine is away."""
        ...

    def close(self) -> None:
        """End connections."""
        ...


def score_batch(scorer: Scorer, batch: Batch, schema: pa.Schema, bundle_id: str) -> pa.RecordBatch:
    """Take one batch all the way to its output rows."""
    prepared = scorer.prepare(batch)
    outcomes = scorer.answer(prepared)
    return batch_table(schema, prepared.ids, prepared.passed, outcomes, bundle_id, prepared.prompts)


class BatchPreparer:
    """The stage before an embedded or Triton engine: rows to pixels and tokens. Safe to use from several threads."""

    def __init__(self, preparer: Preparer, settings: Settings) -> None:
        self._preparer = preparer
        self._settings = settings
        candidates = preparer.bundle.manifest.index.candidates
        # Every candidate's creator, so that totals are whole.
        self.options = Options(settings.top_k, candidates, settings.filter)
        # Once here instead of once a row: what is wrong with it is no row's fault.
        resolve_counts(self.options, candidates, preparer.limits)
        if settings.filter:
            preparer.filters.check(settings.filter, "filter")

    def prepare(self, batch: Batch) -> PreparedBatch:
        """Fetch, decode, resize and tokenise each row."""
        return prepare_rows(batch, self._settings, self._query)

    def _query(self, data: bytes, prompt: str) -> Prepared:
        return self._preparer.prepare(Query(image=data, prompt=prompt), self.options, "row")


class EngineScorer:
    """Scores with an engine in this process."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._stage = BatchPreparer(engine, settings)

    @property
    def options(self) -> Options:
        """What each query is asked with."""
        return self._stage.options

    def bundle(self) -> BundleState:
        """The open bundle, as of now."""
        return state_of(self._engine)

    def prepare(self, batch: Batch) -> PreparedBatch:
        """Fetch, decode, resize and tokenise each row."""
        return self._stage.prepare(batch)

    def answer(self, prepared: PreparedBatch) -> list[Outcome]:
        """Encode, search and re-score the batch together."""
        queries = [query for query in prepared.queries if isinstance(query, Prepared)]
        return merge(prepared, answer_together(queries, self._engine.run))

    def close(self) -> None:
        """Nothing is open."""


def state_of(preparer: Preparer) -> BundleState:
    """The bundle that an engine has open, and its revision."""
    view = preparer.view
    return BundleState(view.bundle.manifest.bundle_id, view.revision)


def engine_limits(settings: Settings) -> Limits:
    """Limits for the engine of a run: a row's own."""
    return Limits(
        max_image_bytes=settings.limits.max_image_bytes,
        max_image_pixels=settings.limits.max_image_pixels,
        max_prompt_bytes=settings.limits.max_prompt_bytes,
        max_top_k=max(1_000, settings.top_k),
    )


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
        prepared.ids.append((row.generation_id, None if _no_unicode("", row.model_id) else row.model_id))
        prepared.digests.append(digest)
        prepared.prompts.append(
            prompt if _no_unicode("", prompt.original + prompt.text) is None else Prompt()
        )
        prepared.outcomes.append(None if problem is None else Outcome(digest, None, problem=problem))
    if batch.fills_prompt:
        place = batch.passed.schema.get_field_index("prompt")
        used = pa.array([prompt.text or None for prompt in prepared.prompts], pa.string())
        prepared.passed = batch.passed.set_column(place, batch.passed.schema.field(place), used)
    return prepared


def _prompt_of_log(row: Row) -> Prompt:
    return of_text(row.prompt, row.prompt_source or "column") if row.prompt.strip() else Prompt()


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
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        return Problem("INVALID_ARGUMENT", field, "is not valid Unicode")
    return None


def answer_together(
    queries: Sequence[Prepared], run: Callable[[Sequence[Prepared]], list[Attribution]]
) -> list[tuple[bool, Scored] | Problem]:
    """Run queries as one batch; if the engine fails on it, one by one. (has_prompt, answer) or a problem for each."""
    if not queries:
        return []
    try:
        answers = run(queries)
    except (UnavailableError, BundleError, MemoryError):
        raise
    except Exception as error:
        if len(queries) == 1:
            return [problem_of(error)]
        # One of them is poison; alone, each gets what it deserves.
        return [outcome for query in queries for outcome in answer_together([query], run)]
    return [(query.has_prompt, scored_of(answer)) for query, answer in zip(queries, answers, strict=True)]


def merge(prepared: PreparedBatch, answers: Sequence[tuple[bool, Scored] | Problem]) -> list[Outcome]:
    """Put the engine's answers between the rows that fell out before."""
    following = iter(answers)
    outcomes = []
    for outcome, digest in zip(prepared.outcomes, prepared.digests, strict=True):
        if outcome is None:
            found = next(following)
            outcome = (
                Outcome(digest, None, problem=found)
                if isinstance(found, Problem)
                else Outcome(digest, found[0], scored=found[1])
            )
        outcomes.append(outcome)
    return outcomes


def scored_of(answer: Attribution | Answer) -> Scored:
    """Keep what the output holds of an answer."""
    creators = tuple(total for total in answer.creators if total.share > 0)
    return Scored(
        answer.items,
        creators,
        answer.diffuse_share,
        answer.withheld_share,
        answer.out_of_distribution,
        answer.revision,
    )


def problem_of(error: Exception) -> Problem:
    """Say what is wrong with a row; raises the error again if it is not the row's fault."""
    if isinstance(error, InvalidArgumentError):
        if error.field.startswith(_OWN_FIELDS):
            raise error
        return Problem("INVALID_ARGUMENT", _PREFIX.sub("", error.field), error.message)
    if isinstance(error, AttributaryError):
        raise error
    # Its text may differ from run to run (addresses, sizes of buffers); its kind does not.
    return Problem("INTERNAL", "", f"the engine failed on this row: {type(error).__name__}")
