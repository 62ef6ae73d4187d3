"""A bundle that is being changed: what is acknowledged is durable, and the next query sees it.

Every change is checked and prepared first, then, one at a time, written to the journal and applied to the view. A
compaction builds beside all that from a snapshot; changes meanwhile go to both journals.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from attributary.attribution.engine import Engine
from attributary.attribution.types import Limits
from attributary.attribution.view import View
from attributary.bundle.bundle import Bundle
from attributary.bundle.items import ItemRecord
from attributary.errors import (
    AttributaryError,
    BundleError,
    InvalidArgumentError,
    PreconditionError,
    UnavailableError,
)
from attributary.journal.changes import Changes, fold, replay
from attributary.journal.log import Log
from attributary.journal.place import changes_of, folder_of, path_of
from attributary.journal.records import Added, Deleted, Entry, Opened, encode

from .compact import compacted
from .items import NO_LICENCE, Embedder, NewItem, check_item
from .lock import WriterLock
from .replace import check_present, exchange, forget_stale_journals, next_of, recover
from .selection import Selection

MAX_ADDED = 100_000
_MAX_WHO, _MAX_WHY = 200, 2_000

OpenEngine = Callable[[Path], Engine]
Flip = Callable[[Engine], None]


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of items that were added together: None for each accepted one, else why not."""

    outcomes: list[AttributaryError | None]
    revision: int


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Ids that are deleted now, and those asked for that were deleted before or never there."""

    ids: tuple[int, ...]
    already: tuple[int, ...]
    unknown: tuple[int, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class CompactResult:
    """The bundle that is in place now, and what the compaction put into it and left out."""

    bundle_id: str
    parent: str  # empty if there was nothing to do
    added: int
    deleted: int


class Store:
    """The one writer of a bundle. Safe to call from several threads; close it."""

    def __init__(
        self, directory: Path | str, open_engine: OpenEngine | None = None, *, max_added: int = MAX_ADDED
    ) -> None:
        """Open the bundle in `directory` for changes; its journal is repaired if a crash left a record unfinished.

        `open_engine` makes the engine that serves it, now and after a compaction; without one nothing is served.
        `max_added` is how many items may wait for a compaction: they are searched one by one. Raises BundleError, and
        PreconditionError if another process writes or the place cannot be written.
        """
        self.directory = Path(directory).resolve()
        self._open_engine = open_engine
        self._max_added = max_added
        check_present(self.directory)
        self._lock = WriterLock(folder_of(self.directory))
        try:
            recover(self.directory)
            self.engine = None if open_engine is None else open_engine(self.directory)
            self._start(_view_of(self.directory) if self.engine is None else self.engine.view)
        except BaseException:
            self._lock.release()
            raise
        self._mutex = threading.Lock()
        self._compacting = threading.Lock()
        self._meanwhile: list[Added | Deleted] | None = None
        self._closing = self._giving_up = self._closed = False
        self._stale = ""

    @property
    def view(self) -> View:
        """The bundle as of now."""
        return self._view

    @property
    def bundle_id(self) -> str:
        """The bundle in place."""
        return self._view.bundle.manifest.bundle_id

    @property
    def history(self) -> list[Entry]:
        """Who changed what, when and why, since the bundle was first built; oldest first."""
        with self._mutex:
            return list(self._changes.entries)

    def add(self, items: Sequence[NewItem], *, who: str, why: str) -> AddResult:
        """Add items; those accepted are durable and searched when this returns.

        An item is refused, the others are not, if a field is missing or too long, its picture cannot be read, or its
        id is or ever was taken. Raises InvalidArgumentError for `who` and `why`, PreconditionError if nothing can be
        written or `max_added` items wait already.
        """
        _check_words(who, why)
        outcomes: list[AttributaryError | None] = [None] * len(items)
        prepared, places = [], []
        for place, item in enumerate(items):
            try:
                check_item(item, self._embedder.limits)
                self._check_new(item)
                prepared.append(self._embedder.prepare(item))
                places.append(place)
            except InvalidArgumentError as error:
                outcomes[place] = error
        vectors = self._embedder.embed(prepared)
        with self._mutex:
            kept: list[int] = []
            records: list[ItemRecord] = []
            for number, place in enumerate(places):
                try:
                    self._check_new(items[place], records)
                    records.append(self._record(items[place], records))
                    kept.append(number)
                except InvalidArgumentError as error:
                    outcomes[place] = error
            if len(self._view.tail) + len(records) > self._max_added:
                raise PreconditionError(
                    "bundle",
                    f"{len(self._view.tail)} added items wait for a compaction, the limit is {self._max_added}; "
                    "compact first",
                )
            if records:
                self._commit(Added(_now(), who, why, tuple(records), vectors[kept]))
            return AddResult(outcomes, self._view.revision)

    def delete(self, selection: Selection, *, who: str, why: str, dry_run: bool = False) -> DeleteResult:
        """Delete the chosen items; they are gone from search and shares, durably, when this returns.

        Choosing nothing is no error, so an opt-out may be repeated. `dry_run` only says what would go. Raises
        InvalidArgumentError if nothing would be left, PreconditionError if nothing can be written.
        """
        _check_words(who, why)
        with self._mutex:
            view = self._view
            rows = selection.rows(view)
            ids = tuple(view.bundle.items.id_of(row) for row in rows.tolist())
            if ids and len(ids) == view.item_count:
                raise InvalidArgumentError(
                    "selection", f"would delete all {len(ids)} items; take the bundle out of use"
                )
            rest = set(selection.ids).difference(ids)
            already = tuple(sorted(item_id for item_id in rest if item_id in view.deleted))
            unknown = tuple(sorted(rest.difference(already)))
            if ids and not dry_run:
                self._commit(Deleted(_now(), who, why, str(selection), ids))
            return DeleteResult(ids, already, unknown, self._view.revision)

    def compact(self, *, who: str, why: str, flip: Flip = lambda engine: None) -> CompactResult:
        """Make a bundle of what is there now, put it in place, and serve it.

        Queries and changes go on meanwhile; only the last step, which takes the changes made meanwhile along, holds
        changes up. `flip` is called with the new engine in that step, so that no query falls between the two. On
        failure everything is as before, unless it is `flip` that fails: the new bundle is in place then, and whoever
        serves the one before is told to start anew by every later change. Raises PreconditionError in that case, if a
        compaction is running already, or if nothing can be written.
        """
        _check_words(who, why)
        if not self._compacting.acquire(blocking=False):
            raise PreconditionError("bundle", "a compaction is running already")
        try:
            with self._mutex:
                self._check_served()
                view, revision = self._view, self._changes.revision
                past = list(self._changes.entries)
                if view.alive is None and not len(view.tail):
                    return CompactResult(self.bundle_id, "", 0, 0)
                self._meanwhile = []
            try:
                ready = next_of(self.directory)
                manifest = compacted(view, self._embedder.encoder, ready, self._check_compacting)
                engine = None if self._open_engine is None else self._open_engine(ready)
                new_view = _view_of(ready) if engine is None else engine.view
                embedder = _embedder_of(new_view, engine)
                parent = view.bundle.manifest
                past.append(
                    Entry(
                        revision,
                        "compact",
                        _now(),
                        who,
                        why,
                        f"{parent.bundle_id} -> {manifest.bundle_id}",
                        (),
                    )
                )
                with self._mutex:
                    opened = Opened(
                        manifest.bundle_id, parent.bundle_id, manifest.encoder.digest, manifest.encoder.dim,
                        revision, tuple(past),
                    )  # fmt: skip
                    self._turn_to(opened, new_view, engine, embedder, flip)
            except (OSError, BundleError) as error:
                # The second: what serving needs beside the bundle's files, a collection perhaps, is not there.
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise PreconditionError("bundle", f"cannot be compacted: {reason}") from error
            finally:
                with self._mutex:
                    self._meanwhile = None
                shutil.rmtree(next_of(self.directory), ignore_errors=True)
            return CompactResult(manifest.bundle_id, parent.bundle_id, view.added_count, view.deleted_count)
        finally:
            self._compacting.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def give_up_compaction(self) -> None:
        """Make a running compaction, and every later one, fail with UnavailableError."""
        self._giving_up = True

    def close(self) -> None:
        """Let a running change end, stop a running compaction, let another writer in. Closing twice is no error."""
        self._closing = self._giving_up = True
        with self._compacting, self._mutex:
            if not self._closed:
                self._closed = True
                self._log.close()
                self._lock.release()

    def _start(self, view: View) -> None:
        bundle = view.bundle
        forget_stale_journals(bundle)
        path = path_of(self.directory, bundle.manifest.bundle_id)
        if path.is_file():
            self._log, payloads = Log.open(path)
            self._changes = fold(*replay(path, payloads))
        else:
            entry = bundle.manifest.encoder
            opened = Opened(bundle.manifest.bundle_id, "", entry.digest, entry.dim, 0, ())
            self._log = Log.create(path, [encode(opened)])
            self._changes = Changes.after(opened)
        self._view = view
        self._embedder = _embedder_of(view, self.engine)

    def _commit(self, record: Added | Deleted) -> None:
        """Write, then show. The caller holds the mutex."""
        if self._closing:
            raise UnavailableError("the bundle is being closed; ask another server")
        self._check_served()
        self._log.append(encode(record))
        self._changes.take(record)
        if self._meanwhile is not None:
            self._meanwhile.append(record)
        step = Changes(self._changes.revision - 1, self._changes.dim)
        step.take(record)
        self._view = self._view.apply(step)
        if self.engine is not None:
            self.engine.view = self._view

    def _turn_to(
        self, opened: Opened, view: View, engine: Engine | None, embedder: Embedder, flip: Flip
    ) -> None:
        """The last step of a compaction; the caller holds the mutex."""
        carried = self._meanwhile or []
        changes = fold(opened, carried)
        path = path_of(self.directory, opened.bundle_id)
        log = Log.create(path, [encode(opened), *map(encode, carried)])
        view = replace(view, bundle=replace(view.bundle, directory=self.directory)).apply(changes)
        if engine is not None:
            engine.view = view
        try:
            self._check_compacting()
            exchange(self.directory)
        except BaseException:
            log.close()
            path.unlink(missing_ok=True)
            raise
        # From here on the new bundle is the one that a restart finds.
        self._log.close()
        self._log, self._changes, self._view, self.engine = log, changes, view, engine
        embedder.move(view.bundle)
        self._embedder = embedder
        if engine is not None:
            self._flip(flip, engine)
        with contextlib.suppress(OSError):
            # What was deleted is gone for good only without the journal that it came by; the next start tries again.
            forget_stale_journals(view.bundle)

    def _flip(self, flip: Flip, engine: Engine) -> None:
        try:
            flip(engine)
        except Exception as error:
            reason = error if isinstance(error, AttributaryError) else type(error).__name__
            # The server goes on with the engine before: what it cannot show must not be acknowledged.
            self._stale = (
                f"does not serve the compacted bundle {self.bundle_id}, which is in place ({reason}); "
                "nothing is changed before it has been started anew"
            )
            raise PreconditionError("server", self._stale) from error

    def _check_new(self, item: NewItem, together: Sequence[ItemRecord] = ()) -> None:
        view = self._view
        if item.id in view.deleted:
            raise InvalidArgumentError(
                "item.id", f"{item.id} was deleted at {view.deleted[item.id]}; ids are not used again"
            )
        if view.bundle.items.row_of(item.id) is not None or any(item.id == record.id for record in together):
            raise InvalidArgumentError("item.id", f"{item.id} is taken")

    def _record(self, item: NewItem, together: Sequence[ItemRecord]) -> ItemRecord:
        items = self._view.bundle.items
        if item.near_dup_of is None:
            group = self._view.shared.items.fresh_group() + len(together)
        else:
            row = items.row_of(item.near_dup_of)
            beside = next((record for record in together if record.id == item.near_dup_of), None)
            if beside is None and (row is None or item.near_dup_of in self._view.deleted):
                raise InvalidArgumentError("item.near_dup_of", f"no such item: {item.near_dup_of}")
            group = beside.near_dup_group if beside is not None else items.near_dup_group(row or 0)
        return ItemRecord(
            item.id, item.caption, item.creator, item.creator_url, item.licence or NO_LICENCE, item.uri, group
        )

    def _check_compacting(self) -> None:
        if self._giving_up:
            raise UnavailableError("the bundle is being closed; the compaction was given up")

    def _check_served(self) -> None:
        if self._stale:
            raise PreconditionError("server", self._stale)


def _view_of(directory: Path) -> View:
    bundle = Bundle.open(directory)
    view = View.of(bundle, None)
    changes = changes_of(bundle)
    return view if changes is None else view.apply(changes)


def _embedder_of(view: View, engine: Engine | None) -> Embedder:
    if engine is None:
        return Embedder(view.bundle, Limits())
    return Embedder(view.bundle, engine.limits, engine.encoder)


def _check_words(who: str, why: str) -> None:
    for name, value, most in (("who", who, _MAX_WHO), ("why", why, _MAX_WHY)):
        if not value.strip():
            raise InvalidArgumentError(name, "must be given: the audit has it")
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise InvalidArgumentError(name, "must be valid Unicode")
        if len(value) > most:
            raise InvalidArgumentError(name, f"has {len(value)} characters, the limit is {most}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
