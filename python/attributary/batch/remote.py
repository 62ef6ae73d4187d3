"""Scoring with an engine elsewhere: a gateway by gRPC, or an NVIDIA Triton that serves the bundle."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attributary.attribution.types import Attribution, Prepared, Query
from attributary.client.channel import Tls
from attributary.client.errors import ServerError
from attributary.client.sync import Client
from attributary.client.types import Answer
from attributary.errors import (
    DeadlineError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
)

from .rows import Batch, BundleState, Outcome, Problem, Scored
from .scoring import (
    BatchPreparer,
    PreparedBatch,
    answer_together,
    engine_limits,
    merge,
    prepare_rows,
    problem_of,
    scored_of,
    state_of,
)
from .settings import Settings

if TYPE_CHECKING:
    from attributary.triton.engine import TritonEngine

T = TypeVar("T")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class GatewayScorer:
    """Scores at a gateway: one AttributeBatch call a batch, bound to the bundle that served when the run began.

    A server that is full or away is asked again for `patience_s`; then UnavailableError ends the run.
    """

    def __init__(
        self,
        address: str,
        settings: Settings,
        *,
        token: str | None = None,
        tls: Tls | None = None,
        timeout_s: float = 60.0,
        patience_s: float = 120.0,
    ) -> None:
        self._settings = settings
        self._patience = patience_s
        self._client = Client(address, token=token, tls=tls, timeout_s=timeout_s)
        try:
            info = self._client.describe()
        except BaseException:
            self._client.close()
            raise
        self._bundle_id = info.bundle_id
        limits = info.limits
        if settings.batch_size > limits.max_batch_queries:
            self._client.close()
            raise InvalidArgumentError(
                "batch_size",
                f"must be at most the gateway's {limits.max_batch_queries}, got {settings.batch_size}",
            )
        # One message of the gateway holds its largest picture and little more.
        self._most_bytes = limits.max_image_bytes
        # Every creator, so that totals are whole.
        self._top_creators = info.max_top_creators

    def bundle(self) -> BundleState:
        """The bundle that the gateway served when this began, as of now; raises NotFoundError if it has gone."""
        return BundleState(self._bundle_id, self._client.describe(bundle_id=self._bundle_id).revision)

    def prepare(self, batch: Batch) -> PreparedBatch:
        """Fetch each row's picture; the gateway decodes."""
        return prepare_rows(batch, self._settings, _as_query)

    def answer(self, prepared: PreparedBatch) -> list[Outcome]:
        """Ask the gateway about the batch; it may join it with other callers' queries."""
        queries = [query for query in prepared.queries if isinstance(query, Query)]
        answers: list[tuple[bool, Scored] | Problem] = []
        for part in _parts(queries, self._most_bytes):
            answers += patiently(partial(self._ask, part), self._patience)
        return merge(prepared, answers)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, queries: list[Query]) -> list[tuple[bool, Scored] | Problem]:
        results = self._client.attribute_batch(
            queries,
            top_k=self._settings.top_k,
            top_creators=self._top_creators,
            filter=self._settings.filter,
            bundle_id=self._bundle_id,
        )
        return [_outcome(query, result) for query, result in zip(queries, results, strict=True)]


class TritonScorer:
    """Scores with Triton's models of a bundle; pictures are decoded on this side."""

    def __init__(
        self,
        bundle: Path,
        address: str,
        settings: Settings,
        *,
        timeout_s: float = 60.0,
        patience_s: float = 120.0,
    ) -> None:
        from attributary.triton.engine import TritonLink

        link = TritonLink(address, engine_limits(settings))
        self._client = link.client
        self._engine: TritonEngine = link.open(bundle)
        self._stage = BatchPreparer(self._engine, settings)
        self._timeout, self._patience = timeout_s, patience_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="triton", daemon=True)
        self._thread.start()
        try:
            self._wait(self._engine.verify())
        except BaseException:
            self.close()
            raise

    def bundle(self) -> BundleState:
        """The bundle whose models are asked."""
        return state_of(self._engine)

    def prepare(self, batch: Batch) -> PreparedBatch:
        """Fetch, decode, resize and tokenise each row."""
        return self._stage.prepare(batch)

    def answer(self, prepared: PreparedBatch) -> list[Outcome]:
        """Ask Triton about the batch as one request."""
        queries = [query for query in prepared.queries if isinstance(query, Prepared)]
        return merge(prepared, answer_together(queries, self._run))

    def close(self) -> None:
        """End the connection and its thread."""
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, queries: Sequence[Prepared]) -> list[Attribution]:
        return patiently(lambda: self._wait(self._engine.infer(queries, self._timeout)), self._patience)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def patiently(
    ask: Callable[[], T],
    patience_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Ask until there is an answer; raises UnavailableError after `patience_s` seconds of refusals."""
    until = clock() + patience_s
    wait = _FIRST_PAUSE_S
    while True:
        try:
            return ask()
        except (UnavailableError, OverloadedError, DeadlineError) as error:
            asked_for = error.retry_after_s if isinstance(error, OverloadedError) else 0.0
            delay = min(max(wait, asked_for), _LONGEST_PAUSE_S)
            if clock() + delay > until:
                raise UnavailableError(f"the engine gave no answer for {patience_s:g} s: {error}") from error
            pause(delay)
            wait *= 2


def _as_query(data: bytes, prompt: str) -> Query:
    return Query(image=data, prompt=prompt)


def _parts(queries: Sequence[Query], most_bytes: int) -> Iterator[list[Query]]:
    """Yield the queries in parts whose pictures and prompts have at most so many bytes together, or are alone."""
    part: list[Query] = []
    room = most_bytes
    for query in queries:
        size = len(query.image or b"") + len(query.prompt.encode("utf-8", errors="replace"))
        if part and size > room:
            yield part
            part, room = [], most_bytes
        part.append(query)
        room -= size
    if part:
        yield part


def _outcome(query: Query, result: Answer | Exception) -> tuple[bool, Scored] | Problem:
    if isinstance(result, UnavailableError | OverloadedError | DeadlineError):
        # The others of the batch have answers, but a batch is answered as a whole.
        raise result
    if isinstance(result, ServerError) and result.code == "INTERNAL":
        # Its own text is a reference into the gateway's log, another one at each attempt.
        return Problem("INTERNAL", "", "the engine failed on this row; the gateway's log says why")
    if isinstance(result, Exception):
        return problem_of(result)
    return bool(query.prompt.strip()), scored_of(result)
