"""The connection to Milvus: calls that end in time, and errors of this package instead of pymilvus's."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, TypeVar

import grpc
from pymilvus import MilvusClient, MilvusException
from pymilvus.exceptions import ErrorCode

from attributary import deadline
from attributary.errors import (
    AttributaryError,
    BundleError,
    DeadlineError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
)

from .planning import MilvusPlan

T = TypeVar("T")

# It prints a traceback for every refused call; ours say the same in one line.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

LABEL = "attributary"
_LABEL_SCHEMA = 1
_LITE = "milvus_lite"
# pymilvus sleeps between its attempts and past its timeout; the caller does not wait for it that long.
_THREADS = 8
# ErrCollectionNotLoaded of Milvus; milvus-lite says the same in words and forgets at a restart what was loaded.
_NOT_LOADED, _NOT_LOADED_TEXT = 101, "in state 'released'"
# What Milvus and what stands before it say of a token that they do not take; the token is sent with every call.
_REFUSED = re.compile(r"\bauth check\b|\bauthenticat|\bunauth", re.IGNORECASE)
_REFUSED_CODES = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
# While Milvus is away a query is told so at once, but for one a second.
_AWAY_S = 1.0


class NotLoadedError(UnavailableError):
    """The collection is there and not in memory."""


class _RefusedError(UnavailableError):
    """Milvus does not take the token: a wrong setting at the start, and no caller's fault later."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a collection says of itself: the bundle whose items it holds and how it is indexed."""

    bundle_id: str
    encoder_digest: str
    items: int
    dim: int
    batch_rows: int  # rows of one insert; a push that was cut resumes at such a border
    plan: MilvusPlan
    schema_version: int = _LABEL_SCHEMA

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({LABEL: asdict(self)}, separators=(",", ":"))

    @classmethod
    def read(cls, description: dict[str, Any]) -> Label | None:
        """Read the label from pymilvus's description of a collection; None if Attributary did not make it."""
        for text in (description.get("description"), (description.get("properties") or {}).get(LABEL)):
            try:
                values = json.loads(text or "")[LABEL]
                return cls(**{**values, "plan": MilvusPlan(**values["plan"])})
            except (ValueError, KeyError, TypeError):
                continue
        return None


class MilvusServer:
    """One Milvus: a cluster by URL, or milvus-lite by the path of a .db file. Safe to call from several threads."""

    def __init__(self, uri: str, token: str = "", timeout_s: float = 10.0) -> None:
        """Connect; raises UnavailableError if nobody answers within `timeout_s`, InvalidArgumentError if refused."""
        if not timeout_s > 0:
            raise InvalidArgumentError("milvus_timeout_s", f"must be above 0, got {timeout_s}")
        self.uri = uri
        self.timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="milvus")
        self._away: tuple[float, str] = (0.0, "")
        try:
            self._client: Any = self._ended(
                lambda: MilvusClient(uri, token=token, timeout=timeout_s), timeout_s
            )
            self.version: str = self._ended(lambda: self._client.get_server_version(), timeout_s)
        except _RefusedError as error:
            raise InvalidArgumentError("milvus_token", str(error)) from error

    @property
    def is_lite(self) -> bool:
        """Whether this is milvus-lite, which has no IVF_PQ and keeps no description."""
        return self.version.startswith(_LITE)

    def call(self, name: str, *arguments: Any, timeout_s: float | None = None, **named: Any) -> Any:
        """Call a method of pymilvus's client, waiting at most `timeout_s`; None is the connection's own.

        For work that takes as long as it takes (building an index), pass infinity.
        """
        limit = self.timeout_s if timeout_s is None else timeout_s
        if limit < float("inf"):
            named["timeout"] = limit
        return self._ended(lambda: getattr(self._client, name)(*arguments, **named), limit)

    def search(self, collection: str, **named: Any) -> Any:
        """Search once, within the caller's deadline.

        Raises DeadlineError if that passed, NotLoadedError, and what `call` raises.
        """
        now = monotonic()
        until, reason = self._away
        if now < until:
            raise UnavailableError(reason)
        left = deadline.remaining()
        if left <= 0:
            raise DeadlineError("the deadline passed before the index was asked")
        try:
            return self.call("search", collection, timeout_s=min(self.timeout_s, left), **named)
        except NotLoadedError:
            raise
        except UnavailableError as error:
            if left < self.timeout_s and deadline.remaining() <= 0:
                raise DeadlineError("the deadline passed while the index was asked") from error
            self._away = (monotonic() + _AWAY_S, str(error))
            raise

    def label(self, collection: str) -> Label | None:
        """Return a collection's label, None if it has none; raises BundleError if there is no such collection."""
        if not self.call("has_collection", collection):
            # Without the address: a compaction that fails of it is told to its caller.
            raise BundleError(named(collection), "does not exist; `attributary index push` makes it")
        return Label.read(self.call("describe_collection", collection))

    def count(self, collection: str) -> int:
        """How many rows a loaded collection holds, all acknowledged writes included."""
        found = self.call(
            "query", collection, filter="", output_fields=["count(*)"], consistency_level="Strong"
        )
        return int(found[0]["count(*)"])

    def close(self) -> None:
        """End the connection."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _ended(self, work: Callable[[], T], limit: float) -> T:
        future = self._pool.submit(work)
        try:
            return future.result(None if limit == float("inf") else limit)
        except FutureTimeoutError:
            future.cancel()
            raise UnavailableError(f"Milvus at {self.uri} did not answer within {limit:.3g} s") from None
        except MilvusException as error:
            raise _translated(error, self.uri) from error
        except grpc.RpcError as error:
            # pymilvus passes on as they are those that it does not try again.
            raise _translated_call(error, self.uri) from error


def named(collection: str) -> str:
    """How errors name a collection."""
    return f"index (Milvus collection {collection})"


def _translated(error: MilvusException, uri: str) -> AttributaryError:
    text = str(error.message).splitlines()[0] if error.message else type(error).__name__
    if error.code == ErrorCode.RATE_LIMIT:
        return OverloadedError("Milvus limits the rate of this request")
    if error.code == _NOT_LOADED or _NOT_LOADED_TEXT in text:
        return NotLoadedError(f"Milvus at {uri}: {text[:300]}")
    if _REFUSED.search(text):
        return _RefusedError(f"Milvus at {uri} refused it: {text[:200]}")
    return UnavailableError(f"Milvus at {uri}: {text[:300]}")


def _translated_call(error: Any, uri: str) -> AttributaryError:
    text = f"{error.code().name}: {(error.details() or '')[:300]}"
    if error.code() in _REFUSED_CODES:
        return _RefusedError(f"Milvus at {uri} refused it: {text}")
    return UnavailableError(f"Milvus at {uri}: {text}")
