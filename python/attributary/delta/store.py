"""A bundle that is being changed: what is acknowledged is durable, and the next query sees it.

Every change is checked and prepared first, then, one at a time, written to the journal and applied to the view. A
compaction builds beside all that from a snapshot; changes meanwhile go to the new bundle's journal as well.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from attributary.attribution.engine import Engine
from attributary.attribution.types import Limits
from attributary.attribution.view import View
from attributary.bundle.bundle import Bundle, delta_path
from attributary.bundle.items import ItemRecord
from attributary.bundle.manifest import Manifest
from attributary.errors import (
    AlreadyExistsError,
    AttributaryError,
    BundleError,
    InvalidArgumentError,
    PreconditionError,
    UnavailableError,
)

from .compact import compacted
from .entry import OPERATOR, Entrance, Placed, Terms, Verdict, check_quota
from .entry import place as place_items
from .held import Held
from .items import NO_LICENCE, Embedder, NewItem, check_item, check_line
from .journal.log import Log
from .journal.place import adopt, changes_of, check_opened
from .journal.records import Added, Changes, Deleted, Entry, Opened, encode, fold, replay
from .lock import WriterLock
from .repeats import check_held, check_twin, revision_of
from .replace import exchange, next_of, recover
from .selection import Selection

MAX_ADDED = 100_000
_MAX_WHO, _MAX_WHY = 200, 2_000

OpenEngine = Callable[[Path], Engine]
Flip = Callable[[Engine], None]


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of items that were added together: None for each accepted one, else why not."""

    outcomes: list[AttributaryError | None]
    revision: int  # the bundle's
    revisions: list[
        int
    ]  # of the change that each item belongs to: an earlier one for an addition that was repeated
    held: list[str]  # why an accepted item waits for the operator; empty for those that are searched


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Ids that are deleted now, and those asked for that were deleted before or never there."""

    ids: tuple[int, ...]
    already: tuple[int, ...]
    unknown: tuple[int, ...]
    revision: int
    held: tuple[int, ...] = ()  # that waited for the operator, and are gone


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
        self._lock = WriterLock(self.directory)
        try:
            recover(self.directory)
            adopt(self.directory)
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

    @property
    def held(self) -> list[Added]:
        """What waits for the operator, oldest first; each record has one item, and says why."""
        with self._mutex:
            return list(self._held.items.values())

    def add(self, items: Sequence[NewItem], *, who: str, why: str, terms: Terms = OPERATOR) -> AddResult:
        """Add items; those accepted are durable when this returns, and searched unless `terms` let them wait.

        An item is refused, the others are not, if a field is missing or too long, its picture cannot be read, or its
        id is or ever was taken; an addition that is repeated as it was is none, and told the revision it had. Raises
        InvalidArgumentError for `who` and `why`, PreconditionError if nothing can be written, `max_added` items wait
        already, or the bundle's vectors were not made by its encoder, OverloadedError if `who` has added too many.
        """
        _check_words(who, why)
        self._check_space()
        outcomes: list[AttributaryError | None] = [None] * len(items)
        revisions = [0] * len(items)
        waiting = [""] * len(items)
        prepared, places = [], []
        for place, item in enumerate(items):
            try:
                check_item(item, self._embedder.limits)
                prepared.append(self._embedder.prepare(item))
                places.append(place)
            except InvalidArgumentError as error:
                outcomes[place] = error
        placed = place_items(self._embedder, [items[place] for place in places], prepared, terms)
        with self._mutex:
            kept: list[Placed] = []
            records: list[ItemRecord] = []
            held: list[Added] = []
            together: dict[int, NewItem] = {}
            for place, one in zip(places, placed, strict=True):
                item = one.item
                try:
                    if item.id in together:
                        check_twin(item, together[item.id])
                    elif earlier := revision_of(self._view, self._changes.entries, item, one.vector):
                        revisions[place] = earlier
                    elif (waits := self._held.items.get(item.id)) is not None:
                        check_held(item, waits, one.vector)
                        waiting[place] = waits.held
                    else:
                        verdict = self._entrance.judge(self._view, one, terms, kept)
                        record = self._record(item, records, verdict.like)
                        together[item.id] = item
                        waiting[place] = verdict.held
                        if verdict.held:
                            held.append(self._waiting(one, record, verdict, who, why))
                        else:
                            records.append(record)
                            kept.append(one)
                except (InvalidArgumentError, AlreadyExistsError) as error:
                    outcomes[place] = error
            new = len(records) + len(held)
            self._check_room(new)
            if new:
                waited = [record.at for record in self._held.items.values() if record.who == who]
                check_quota(terms, who, new, self._changes.entries, waited)
            if held:
                self._check_open()
                self._held.put(held)
            if records:
                vectors = np.stack([one.vector for one in kept])
                looks = np.stack([one.newcomer.look for one in kept])
                self._commit(Added(_now(), who, why, tuple(records), vectors, looks))
            revision = self._view.revision
            for place in places:
                if outcomes[place] is None:
                    revisions[place] = revisions[place] or revision
            return AddResult(outcomes, revision, revisions, waiting)

    def release(self, ids: Sequence[int], *, who: str, why: str) -> int:
        """Let items that wait enter, as they were added; return the revision. Durable and searched on return.

        One that looks like an older item shares that item's credit. Raises InvalidArgumentError for an id that does
        not wait, PreconditionError if nothing can be written.
        """
        _check_words(who, why)
        with self._mutex:
            waits = [self._waits(number) for number in dict.fromkeys(ids)]
            self._check_room(len(waits), entering=True)
            records: list[ItemRecord] = []
            for record in waits:
                item = record.items[0]
                row = None if record.like is None else self._view.bundle.items.row_of(record.like)
                group = None if row is None else self._view.bundle.items.near_dup_group(row)
                fresh = self._view.shared.items.fresh_group() + len(records)
                records.append(replace(item, near_dup_group=fresh if group is None else group))
            if waits:
                vectors = np.concatenate([record.vectors for record in waits])
                looks = np.concatenate([record.looks for record in waits if record.looks is not None])
                self._commit(Added(_now(), who, why, tuple(records), vectors, looks))
                self._held.drop(Deleted(_now(), who, why, "released", tuple(item.id for item in records)))
            return self._view.revision

    def refuse(self, ids: Sequence[int], *, who: str, why: str) -> None:
        """Forget items that wait. Raises InvalidArgumentError for an id that does not wait."""
        _check_words(who, why)
        with self._mutex:
            waits = [self._waits(number) for number in dict.fromkeys(ids)]
            self._check_open()
            self._held.drop(Deleted(_now(), who, why, "refused", tuple(one.items[0].id for one in waits)))

    def delete(self, selection: Selection, *, who: str, why: str, dry_run: bool = False) -> DeleteResult:
        """Delete the chosen items; they are gone from search and shares, durably, when this returns.

        An opt-out may be repeated. `dry_run` only says what would go. Raises InvalidArgumentError if nothing would be
        left or the selection never meant anything here, PreconditionError if nothing can be written.
        """
        _check_words(who, why)
        with self._mutex:
            view = self._view
            rows = selection.rows(view)
            held = tuple(
                number for number, record in self._held.items.items() if selection.chooses(record.items[0])
            )
            if (
                not rows.size
                and not held
                and not any(entry.what == str(selection) != "" for entry in self._changes.entries)
            ):
                selection.check_known(view)
            ids = tuple(view.bundle.items.id_of(row) for row in rows.tolist())
            if ids and len(ids) == view.item_count:
                raise InvalidArgumentError(
                    "selection", f"would delete all {len(ids)} items; take the bundle out of use"
                )
            rest = set(selection.ids).difference(ids, held)
            already = tuple(sorted(item_id for item_id in rest if item_id in view.deleted))
            unknown = tuple(sorted(rest.difference(already)))
            if ids and not dry_run:
                self._commit(Deleted(_now(), who, why, str(selection), ids))
            if held and not dry_run:
                self._check_open()
                self._held.drop(Deleted(_now(), who, why, str(selection), held))
            return DeleteResult(ids, already, unknown, self._view.revision, held)

    def compact(
        self, *, who: str, why: str, erase: bool = False, flip: Flip = lambda engine: None
    ) -> CompactResult:
        """Make a bundle of what is there now, put it in place, and serve it.

        Vectors of deleted items stay, so that nobody inherits their shares, unless `erase` asks for nothing to be left.

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
                view, past, looks = self._view, tuple(self._changes.entries), self._entrance.looks
                withheld = erase and view.alive is not None
                if not view.deleted_count and not len(view.tail) and not withheld:
                    return CompactResult(self.bundle_id, "", 0, 0)
                self._meanwhile = []
            try:
                before, erased = self.bundle_id, ", erased" if erase else ""

                def opened(manifest: Manifest) -> Opened:
                    what, entry = f"{before} -> {manifest.bundle_id}", manifest.encoder
                    done = Entry(view.revision, "compact", _now(), who, why, what + erased, ())
                    identity = (manifest.bundle_id, before, entry.digest, entry.dim)
                    former = view.filters.former_names()
                    return Opened(*identity, view.revision, (*past, done), former)

                ready = next_of(self.directory)
                compacted(view, self._embedder.encoder, ready, opened, self._check_compacting, erase, looks)
                engine = None if self._open_engine is None else self._open_engine(ready)
                new_view = _view_of(ready) if engine is None else engine.view
                embedder = _embedder_of(new_view, engine)
                with self._mutex:
                    self._turn_to(new_view, engine, embedder, flip)
            except (OSError, BundleError) as error:
                # The second: what serving needs beside the bundle's files, a collection perhaps, is not there.
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise PreconditionError("bundle", f"cannot be compacted: {reason}") from error
            finally:
                with self._mutex:
                    self._meanwhile = None
                # What was deleted is gone for good only without the bundle before and its journal; where this fails
                # the next start tries again.
                shutil.rmtree(next_of(self.directory), ignore_errors=True)
            return CompactResult(self.bundle_id, before, view.added_count, view.deleted_count)
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
                self._held.close()
                self._lock.release()

    def _start(self, view: View) -> None:
        self._log, self._changes = _continued(self.directory, view.bundle.manifest)
        self._view = view
        self._embedder = _embedder_of(view, self.engine)
        self._entrance = Entrance(view, self._changes.looks)
        self._held = Held(self.directory, view.bundle.manifest)
        # A crash between the two logs leaves what was released in both.
        entered = tuple(
            number for number in self._held.items if self._view.bundle.items.row_of(number) is not None
        )
        self._held.drop(Deleted(_now(), "", "", "released", entered))

    def _commit(self, record: Added | Deleted) -> None:
        """Write, then show. The caller holds the mutex."""
        self._check_open()
        self._log.append(encode(record))
        self._changes.take(record)
        if self._meanwhile is not None:
            self._meanwhile.append(record)
        self._view = self._view.apply(fold(Changes(self._view.revision, self._changes.dim), [record]))
        if isinstance(record, Added):
            self._entrance.entered(self._changes.looks[-len(record.items) :])
        if self.engine is not None:
            self.engine.view = self._view

    def _turn_to(self, view: View, engine: Engine | None, embedder: Embedder, flip: Flip) -> None:
        """The last step of a compaction; the caller holds the mutex."""
        ready = next_of(self.directory)
        # Another writer finds the one or the other locked, whichever directory it finds.
        lock = WriterLock(ready, waiting=True)
        try:
            log, changes = _continued(ready, view.bundle.manifest)
            try:
                for record in self._meanwhile or ():
                    log.append(encode(record))
                fold(changes, self._meanwhile or ())
                view = replace(view, bundle=replace(view.bundle, directory=self.directory))
                step = fold(Changes(view.revision, changes.dim), self._meanwhile or ())
                view = view.apply(step)
                if engine is not None:
                    engine.view = view
                self._check_compacting()
                held = self._held.move(ready, view.bundle.manifest)
                try:
                    exchange(self.directory)
                except BaseException:
                    held.close()
                    raise
            except BaseException:
                log.close()
                raise
        except BaseException:
            lock.release()
            raise
        # From here on the new bundle is the one that a restart finds.
        self._log.close()
        self._held.close()
        self._held = Held(self.directory, view.bundle.manifest)
        held.close()
        self._entrance = Entrance(view, changes.looks)
        self._lock.release()
        self._lock, self._log, self._changes, self._view, self.engine = lock, log, changes, view, engine
        embedder.move(view.bundle)
        self._embedder = embedder
        if engine is not None:
            self._flip(flip, engine)

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

    def _check_space(self) -> None:
        manifest = self._view.bundle.manifest
        if manifest.vectors_are_trained:
            raise PreconditionError(
                "bundle",
                f"its item vectors were trained with student {manifest.student}, not made by its query encoder: an "
                "item added through the encoder would lie elsewhere and take a multiple of its share. Train a student "
                "with the new items (`attributary-train student train`) and build its bundle; deletions are possible",
            )

    def _record(self, item: NewItem, together: Sequence[ItemRecord], like: int | None) -> ItemRecord:
        """What is known of an item; it joins the group that it names, else that of row `like`, else it opens one."""
        items = self._view.bundle.items
        if item.near_dup_of is None and like is not None:
            group = (
                items.near_dup_group(like)
                if like < len(items)
                else together[like - len(items)].near_dup_group
            )
        elif item.near_dup_of is None:
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

    def _waiting(self, placed: Placed, record: ItemRecord, verdict: Verdict, who: str, why: str) -> Added:
        items = self._view.bundle.items
        like = None if verdict.like is None or verdict.like >= len(items) else items.id_of(verdict.like)
        look, vector = placed.newcomer.look[None], placed.vector[None]
        return Added(_now(), who, why, (record,), vector, look, verdict.held, like)

    def _waits(self, number: int) -> Added:
        record = self._held.items.get(number)
        if record is None:
            raise InvalidArgumentError(
                "ids", f"item {number} does not wait (`attributary bundle held` lists those)"
            )
        return record

    def _check_room(self, new: int, entering: bool = False) -> None:
        waiting = len(self._view.tail) + (0 if entering else len(self._held.items))
        if new and waiting + new > self._max_added:
            raise PreconditionError(
                "bundle",
                f"{waiting} added items wait for a compaction, the limit is {self._max_added}; compact first",
            )

    def _check_open(self) -> None:
        if self._closing:
            raise UnavailableError("the bundle is being closed; ask another server")
        self._check_served()

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


def _continued(directory: Path, manifest: Manifest) -> tuple[Log, Changes]:
    """Open a bundle's journal to go on with it, and say what it amounts to."""
    path = delta_path(directory, manifest.bundle_id)
    log, payloads = Log.open(path)
    try:
        opened, records = replay(path, payloads)
        check_opened(path, opened, manifest)
    except BaseException:
        log.close()
        raise
    return log, fold(Changes.after(opened), records)


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
        check_line(value, name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
