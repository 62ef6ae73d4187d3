"""What was asked and answered, a line a query, for whoever must account for it; and what answers hide from callers.

    DIR/queries-2026-11-29.jsonl   readable by the server's user alone; kept for so many days

A line has no picture, only the SHA-256 of its bytes, and no prompt unless that is asked for; ids, not captions or names
of creators, so that deleting an item leaves nothing of it here. Lines are written by a thread of its own; where the
disk cannot keep up they are left out, counted, and the next line says how many.

A clock that is set forward makes every day an old one. So a day goes at once only where the log has as many newer ones;
else it has to be old for half a day of this process's time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import queue
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final

import structlog

from attributary.attribution.types import Query
from attributary.errors import InvalidArgumentError
from attributary.v1 import attribution_pb2 as pb

log = structlog.get_logger(__name__)

_WAITING: Final = 10_000
# Of pictures that are still to be hashed.
_WAITING_BYTES: Final = 64 << 20
_PREFIX: Final = "queries-"
# A clock that is wrong is put right by then.
_PATIENCE_S: Final = 12 * 3_600


class QueryLog:
    """Writes lines in the background. `put` from the event loop; close it."""

    def __init__(self, folder: Path, days: int, prompts: bool) -> None:
        """Raises InvalidArgumentError if the folder cannot be written."""
        self._folder, self._days, self._prompts = folder, days, prompts
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(_WAITING)
        self._left_out = 0
        self._lost = 0  # by the writer
        # Bytes of pictures that were handed over, and that are done with: each is counted by one thread alone.
        self._given = self._hashed = 0
        self._day = ""
        self._old: dict[Path, float] = {}  # since when, on the monotonic clock
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._clean(datetime.now(UTC))
            probe = folder / ".writable"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            raise InvalidArgumentError("query_log", f"cannot be written: {error}") from None
        self._thread = threading.Thread(target=self._run, name="query-log", daemon=True)
        self._thread.start()

    def put(self, caller: str, query: Query, reply: pb.Attribution) -> None:
        """Note an answer."""
        line: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "caller": caller,
            "bundle_id": reply.bundle_id,
            "revision": reply.revision,
            "has_prompt": reply.has_prompt,
            "image_sha256": None,
            "items": [[item.id, round(item.share, 6)] for item in reply.items],
            "diffuse_share": reply.diffuse_share,
            "withheld_share": reply.withheld_share,
            "out_of_distribution": reply.out_of_distribution,
        }
        if self._prompts:
            line["prompt"] = query.prompt
        if self._left_out:
            line["left_out_before"] = self._left_out
        # The writing thread hashes it.
        line["image"] = query.image
        size = len(query.image or b"")
        try:
            if (waiting := self._given - self._hashed) and waiting + size > _WAITING_BYTES:
                raise queue.Full
            self._lines.put_nowait(line)
            self._given += size
            self._left_out = 0
        except queue.Full:
            self._left_out += 1

    def close(self) -> None:
        """Write what waits."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=10)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if (image := line.pop("image")) is not None:
                line["image_sha256"] = hashlib.sha256(image).hexdigest()
                self._hashed += len(image)
            del image
            if missing := line.get("left_out_before", 0) + self._lost:
                line["left_out_before"] = missing
            try:
                self._write(line)
                self._lost = 0
            except OSError as error:
                self._lost = missing + 1
                log.error("a line of the query log is lost", reason=str(error))

    def _write(self, line: dict[str, Any]) -> None:
        day = str(line["at"])[:10]
        if day != self._day:
            self._clean(datetime.fromisoformat(day).replace(tzinfo=UTC))
            self._day = day
        data = (json.dumps(line) + "\n").encode()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(self._folder / f"{_PREFIX}{day}.jsonl", flags, 0o600)
        try:
            # Processes of one server write to one file.
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                data = b"\n" + data
            if (written := os.write(handle, data)) < len(data):
                raise OSError(errno.ENOSPC, f"{written} of {len(data)} bytes were written")
        finally:
            os.close(handle)

    def _clean(self, now: datetime) -> None:
        first = (now - timedelta(days=self._days)).date().isoformat()
        newest_first = sorted(self._folder.glob(f"{_PREFIX}*.jsonl"), reverse=True)
        old = {path: number for number, path in enumerate(newest_first) if path.stem < _PREFIX + first}
        since = monotonic()
        self._old = {path: self._old.get(path, since) for path in old}
        for path, newer in old.items():
            if newer >= self._days or since - self._old[path] >= _PATIENCE_S:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()


def redact(reply: pb.Attribution, hidden: frozenset[str]) -> None:
    """Take out of an answer what its caller may not see: of "uri", "caption", "creator". Shares stay."""
    for item in reply.items:
        for name in hidden:
            item.ClearField(name)  # type: ignore[arg-type]  # one of the three
        if "creator" in hidden:
            item.creator_url = ""
            item.ClearField("creator_ids")
    if "creator" in hidden:
        for total in reply.creators:
            total.creator = ""
            total.ClearField("creator_ids")
