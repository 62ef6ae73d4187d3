"""The engines that score a log: in this process, at a gateway by gRPC, or an NVIDIA Triton."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
    needs,
)

from .rows import Answered, BundleState, Problem
from .scoring import EngineScorer, Scorer, engine_limits, problem_of
from .settings import Settings

T = TypeVar("T")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class ScorerSource:
    """A picklable description of a scorer; `bundle` must be seen under the same path on every machine.

    The engine is `settings.engine`: "embedded" (a bundle), "triton" (a bundle and an address), or "gateway" (an
    address, and in `served` an alias or id of the bundle that is to answer, empty for the server's default).
    """

    settings: Settings
    bundle: Path | None = None
    address: str = ""
    token: str | None = None
    tls: Tls | None = None
    served: str = ""

    def open(self, verify: bool = True) -> Scorer:
        """Open the scorer. `verify` False skips the hashes of a bundle that this machine has just verified."""
        settings = self.settings
        if settings.engine == "gateway":
            return GatewayScorer(
                self.address, settings, bundle_id=self.served, token=self.token, tls=self.tls
            )
        if settings.engine == "triton":
            with needs("triton"):
                return TritonScorer(self._bundle(), self.address, settings)
        from attributary.attribution.open import open_engine

        limits = engine_limits(settings)
        engine = open_engine(self._bundle(), limits=limits, precision=settings.precision, verify=verify)
        return EngineScorer(engine, settings)

    def open_stage(self) -> Scorer:
        """Open what the decoding stage needs, which prepares and cannot answer: no encoder, no index."""
        if self.settings.engine == "gateway":
            return self.open()
        from attributary.attribution.open import open_preparer

        limits = engine_limits(self.settings)
        return EngineScorer(open_preparer(self._bundle(), limits=limits, verify=False), self.settings)

    def _bundle(self) -> Path:
        if self.bundle is None:
            raise InvalidArgumentError("bundle", "name a bundle directory, or an --endpoint that serves one")
        return self.bundle


class GatewayScorer(Scorer):
    """Scores at a gateway: one AttributeBatch call a batch, bound to the bundle that served when the run began.

    `bundle_id` is an alias or id of that bundle. A server that is full or away is asked again for `patience_s`; then
    UnavailableError ends the run.
    """

    def __init__(
        self,
        address: str,
        settings: Settings,
        *,
        bundle_id: str = "",
        token: str | None = None,
        tls: Tls | None = None,
        timeout_s: float = 60.0,
        patience_s: float = 120.0,
    ) -> None:
        super().__init__(settings)
        self._patience = patience_s
        self._client = Client(address, token=token, tls=tls, timeout_s=timeout_s)
        try:
            info = self._client.describe(bundle_id=bundle_id)
            most = info.limits.max_batch_queries
            if settings.batch_size > most:
                raise InvalidArgumentError(
                    "batch_size", f"must be at most the gateway's {most}, got {settings.batch_size}"
                )
        except BaseException:
            self._client.close()
            raise
        # Not the alias: it may lead elsewhere before the run ends.
        self._bundle_id = info.bundle_id
        # One message of the gateway holds its largest picture and little more.
        self._most_bytes = info.limits.max_image_bytes
        # Every creator, so that totals are whole.
        self._top_creators = info.max_top_creators

    def bundle(self) -> BundleState:
        """The bundle that the gateway served when this began, as of now; raises NotFoundError if it has gone."""
        return BundleState(self._bundle_id, self._client.describe(bundle_id=self._bundle_id).revision)

    def query(self, data: bytes, prompt: str) -> Query:
        """The gateway decodes."""
        return Query(image=data, prompt=prompt)

    def ask(self, queries: Sequence[Any]) -> list[Answered]:
        """Ask the gateway; it may join the batch with other callers' queries."""
        answers: list[Answered] = []
        for part in _parts(queries, self._most_bytes):
            answers += patiently(partial(self._ask, part), self._patience)
        return answers

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, queries: list[Query]) -> list[Answered]:
        results = self._client.attribute_batch(
            queries,
            top_k=self.settings.top_k,
            top_creators=self._top_creators,
            filter=self.settings.filter,
            bundle_id=self._bundle_id,
        )
        return [_outcome(result) for result in results]


class TritonScorer(EngineScorer):
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
        self._client, self._engine = link.client, link.open(bundle)
        super().__init__(self._engine, settings)
        self._timeout, self._patience = timeout_s, patience_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="triton", daemon=True)
        self._thread.start()
        try:
            self._wait(self._engine.verify())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connection and its thread."""
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, queries: Sequence[Prepared]) -> list[Attribution]:
        """Ask Triton about the queries as one request."""
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
            wanted_s = error.retry_after_s if isinstance(error, OverloadedError) else 0.0
            delay = min(max(wait, wanted_s), _LONGEST_PAUSE_S)
            if clock() + delay > until:
                raise UnavailableError(f"the engine gave no answer for {patience_s:g} s: {error}") from error
            pause(delay)
            wait *= 2


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


def _outcome(result: Answer | Exception) -> Answered:
    if isinstance(result, UnavailableError | OverloadedError | DeadlineError):
        # The others of the batch have answers, but a batch is answered as a whole.
        raise result
    if isinstance(result, ServerError) and result.code == "INTERNAL":
        # Its own text is a reference into the gateway's log, another one at each attempt.
        return Problem("INTERNAL", "", "the engine failed on this row; the gateway's log says why")
    if isinstance(result, Exception):
        return problem_of(result)
    return result
