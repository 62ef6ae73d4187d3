"""A bundle that is being changed: what is acknowledged is durable, and the next query sees it.

Every change is checked and prepared first, then, one at a time, written to the journal and applied to the snapshot. A
compaction builds beside all that from a snapshot; changes meanwhile go to the new bundle's journal as well.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from attributary.attribution.engine import Engine
from attributary.attribution.snapshot import Snapshot
from attributary.attribution.types import Limits
from attributary.bundle.bundle import Bundle, delta_path
from attributary.bundle.manifest import Manifest
from attributary.errors import (
    AttributaryError,
    BundleError,
    InvalidArgumentError,
    PreconditionError,
    UnavailableError,
)

from .change import AddResult, CompactResult, DeleteResult, check_words, now
from .compact import compacted
from .delivery import Delivery
from .directory import WriterLock, exchange, next_of, recover
from .entry import OPERATOR, Entrance, Quota, Terms
from .held import Held
from .inherit import put
from .items import Embedder, NewItem, check_space
from .journal.place import adopt, changes_of, continued
from .journal.records import Added, Changes, Deleted, Entry, Opened, encode, left_by_name
from .selection import Selection, duplicates_of

MAX_ADDED = 100_000

OpenEngine = Callable[[Path], Engine]
Flip = Callable[[Engine], None]


class Store(contextlib.AbstractContextManager["Store"]):
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
        # A link may be led to a copy: the next start, and every reader, would find that one.
        self._named = Path(directory).absolute()
        self._open_engine = open_engine
        self._max_added = max_added
        self._lock = WriterLock(self.directory)
        try:
            recover(self.directory)
            adopt(self.directory)
            self.engine = None if open_engine is None else open_engine(self.directory)
            self._start(_snapshot(self.directory, self.engine))
        except BaseException:
            self._lock.release()
            raise
        self._mutex = threading.Lock()
        self._compacting = threading.Lock()
        self._meanwhile: list[Added | Deleted] | None = None
        self._closing = self._giving_up = self._closed = False
        self._stale = ""

    @property
    def snapshot(self) -> Snapshot:
        """The bundle as of now."""
        return self._snapshot

    @property
    def bundle_id(self) -> str:
        """The bundle in place."""
        return self._snapshot.bundle.manifest.bundle_id

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

        An item is refused, the others are not, if a field is missing or too long, its picture cannot be read, its id is
        or ever was taken, it would bring back what was deleted, or `who` has added too many; an addition that is
        repeated as it was gets the revision it had. Raises InvalidArgumentError for `who` and `why`, PreconditionError
        if nothing can be written, `max_added` items wait already, or the bundle's vectors were not made by its encoder.
        """
        check_words(who, why)
        check_space(self._snapshot.bundle.manifest)
        delivery = Delivery(items, who, why, terms)
        with self._mutex:
            entries, waits = self._changes.entries, self._held.items
            if delivery.screen(self._snapshot, entries, waits, self._embedder.limits):
                self._check_room(1)
            quota = Quota(terms, who, entries, self._held.came)
        delivery.place(self._embedder, quota)
        with self._mutex:
            entries, waits = self._changes.entries, self._held.items
            now_left = Quota(terms, who, entries, self._held.came)
            delivery.judge(self._snapshot, entries, waits, self._entrance, now_left)
            self._check_room(delivery.new)
            if delivery.held:
                self._check_open()
                self._held.put(delivery.held)
            if (entering := delivery.entering()) is not None:
                self._commit(entering)
            return delivery.result(self._snapshot.revision)

    def release(self, ids: Sequence[int], *, who: str, why: str, bring_back: bool = False) -> int:
        """Let items that wait enter, as they were added; return the revision. Durable and searched on return.

        One that looks like an older item shares that item's credit. Raises InvalidArgumentError for an id that does
        not wait, PreconditionError if nothing can be written, and for the picture of a deleted item unless
        `bring_back` says that it may come back.
        """
        check_words(who, why)
        with self._mutex:
            waits = self._waiting(ids)
            self._check_room(len(waits), entering=True)
            left = left_by_name(self._changes.entries)
            records, back = self._entrance.let_in(self._snapshot, waits, bring_back, left)
            if waits:
                vectors = np.concatenate([record.vectors for record in waits])
                looks = np.concatenate([record.looks for record in waits if record.looks is not None])
                self._commit(Added(now(), who, why, tuple(records), vectors, looks, back=tuple(back)))
                self._held.drop(Deleted(now(), who, why, "released", tuple(item.id for item in records)))
            return self._snapshot.revision

    def refuse(self, ids: Sequence[int], *, who: str, why: str) -> None:
        """Forget items that wait. Raises InvalidArgumentError for an id that does not wait."""
        check_words(who, why)
        with self._mutex:
            waits = self._waiting(ids)
            self._check_open()
            self._held.drop(Deleted(now(), who, why, "refused", tuple(one.items[0].id for one in waits)))

    def delete(self, selection: Selection, *, who: str, why: str, dry_run: bool = False) -> DeleteResult:
        """Delete the chosen items; they are gone from search and shares, durably, when this returns.

        An opt-out may be repeated. `dry_run` only says what would go. Raises InvalidArgumentError if nothing would be
        left or the selection never meant anything here, PreconditionError if nothing can be written.
        """
        check_words(who, why)
        with self._mutex:
            snapshot = self._snapshot
            rows = selection.rows(snapshot)
            held = tuple(
                number for number, record in self._held.items.items() if selection.chooses(record.items[0])
            )
            what = str(selection)
            was_said = what and any(entry.what == what for entry in self._changes.entries)
            if not (rows.size or held or was_said):
                selection.check_known(snapshot)
            ids = tuple(snapshot.bundle.items.id_of(row) for row in rows.tolist())
            if ids and len(ids) == snapshot.item_count:
                raise InvalidArgumentError(
                    "selection", f"would delete all {len(ids)} items; take the bundle out of use"
                )
            rest = set(selection.ids).difference(ids, held)
            already = tuple(sorted(item_id for item_id in rest if item_id in snapshot.deleted))
            unknown = tuple(sorted(rest.difference(already)))
            # Whoever leaves by name has left, also where theirs went by id before, or all of it waits.
            name = selection.creator
            if (ids or (name and name not in left_by_name(self._changes.entries))) and not dry_run:
                self._commit(Deleted(now(), who, why, what, ids))
            if held and not dry_run:
                self._check_open()
                self._held.drop(Deleted(now(), who, why, what, held))
            snapshot = self._snapshot
        # Every name and every row is looked at: no change waits for that.
        similar, duplicates = selection.similar(snapshot), duplicates_of(snapshot, rows)
        return DeleteResult(ids, already, unknown, snapshot.revision, held, similar, duplicates)

    def keep_out(self, creators: Iterable[str], *, who: str, why: str) -> None:
        """Note creators who left by name elsewhere: what is not here yet comes on purpose alone."""
        check_words(who, why)
        with self._mutex:
            for name in sorted(set(creators) - left_by_name(self._changes.entries)):
                self._commit(Deleted(now(), who, why, f"creator={name}", ()))

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
        check_words(who, why)
        if not self._compacting.acquire(blocking=False):
            raise PreconditionError("bundle", "a compaction is running already")
        try:
            with self._mutex:
                self._check_served()
                snapshot, past, looks = self._snapshot, tuple(self._changes.entries), self._entrance.looks
                withheld = erase and snapshot.alive is not None
                if not snapshot.deleted_count and not len(snapshot.added) and not withheld:
                    return CompactResult(self.bundle_id, "", 0, 0)
                self._meanwhile = []
            try:
                before, erased = self.bundle_id, ", erased" if erase else ""

                def opened(manifest: Manifest) -> Opened:
                    what, entry = f"{before} -> {manifest.bundle_id}", manifest.encoder
                    done = Entry(snapshot.revision, "compact", now(), who, why, what + erased, ())
                    identity = (manifest.bundle_id, before, entry.digest, entry.dim)
                    former = snapshot.filters.former_names()
                    return Opened(*identity, snapshot.revision, (*past, done), former)

                ready = next_of(self.directory)
                compacted(
                    snapshot, self._embedder.encoder, ready, opened, self._check_compacting, erase, looks
                )
                engine = None if self._open_engine is None else self._open_engine(ready)
                new_snapshot = _snapshot(ready, engine)
                embedder = _embedder(new_snapshot, engine)
                with self._mutex:
                    self._turn_to(new_snapshot, engine, embedder, flip)
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
            return CompactResult(self.bundle_id, before, snapshot.added_count, snapshot.deleted_count)
        finally:
            self._compacting.release()

    def __exit__(self, *_: object) -> None:
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

    def _start(self, snapshot: Snapshot) -> None:
        self._log, self._changes = continued(self.directory, snapshot.bundle.manifest)
        self._snapshot = snapshot
        self._embedder = _embedder(snapshot, self.engine)
        self._entrance = Entrance(snapshot, self._changes.looks)
        self._held = Held(self.directory, snapshot.bundle.manifest)
        # A crash between the two logs leaves what was released in both.
        entered = tuple(
            number for number in self._held.items if self._snapshot.bundle.items.row_of(number) is not None
        )
        self._held.drop(Deleted(now(), "", "", "released", entered))

    def _commit(self, record: Added | Deleted) -> None:
        """Write, then show. The caller holds the mutex."""
        self._check_open()
        self._log.append(encode(record))
        self._changes.take(record)
        if self._meanwhile is not None:
            self._meanwhile.append(record)
        step = Changes(self._snapshot.revision, self._changes.dim).take(record)
        before, self._snapshot = self._snapshot, self._snapshot.apply(step)
        if isinstance(record, Added):
            self._entrance.entered(self._changes.looks[-len(record.items) :])
        if self.engine is not None:
            put(self.engine, before, self._snapshot)

    def _turn_to(self, snapshot: Snapshot, engine: Engine | None, embedder: Embedder, flip: Flip) -> None:
        """The last step of a compaction; the caller holds the mutex."""
        ready = next_of(self.directory)
        meanwhile = self._meanwhile or ()
        with contextlib.ExitStack() as undo:
            # Another writer finds the one or the other locked, whichever directory it finds.
            lock = WriterLock(ready, waiting=True)
            undo.callback(lock.release)
            log, changes = continued(ready, snapshot.bundle.manifest)
            undo.callback(log.close)
            for record in meanwhile:
                log.append(encode(record))
            changes.take(*meanwhile)
            snapshot = replace(snapshot, bundle=replace(snapshot.bundle, directory=self.directory))
            snapshot = snapshot.apply(Changes(snapshot.revision, changes.dim).take(*meanwhile))
            if engine is not None:
                engine.snapshot = snapshot
            self._check_compacting()
            self._check_served()
            held = self._held.move(ready, snapshot.bundle.manifest)
            undo.callback(held.close)
            exchange(self.directory)
            undo.pop_all()
        # From here on the new bundle is the one that a restart finds.
        self._log.close()
        self._held.close()
        self._held = Held(self.directory, snapshot.bundle.manifest)
        held.close()
        self._entrance = Entrance(snapshot, changes.looks)
        self._lock.release()
        self._lock, self._log, self._changes = lock, log, changes
        self._snapshot, self.engine = snapshot, engine
        embedder.move(snapshot.bundle)
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

    def _waiting(self, ids: Sequence[int]) -> list[Added]:
        for number in ids:
            if number not in self._held.items:
                raise InvalidArgumentError(
                    "ids", f"item {number} does not wait (`attributary bundle held` lists those)"
                )
        return [self._held.items[number] for number in dict.fromkeys(ids)]

    def _check_room(self, new: int, entering: bool = False) -> None:
        waiting = len(self._snapshot.added) + (0 if entering else len(self._held.items))
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
        if not self._log.lies_at(delta_path(self._named, self.bundle_id)):
            raise PreconditionError(
                "bundle", f"{self._named} was moved or restored since it was opened: start it anew"
            )


def _snapshot(directory: Path, engine: Engine | None) -> Snapshot:
    """The bundle in a directory with its changes: an engine's, where one serves it. Raises BundleError."""
    if engine is not None:
        return engine.snapshot
    bundle = Bundle.open(directory)
    snapshot, changes = Snapshot.of(bundle, None), changes_of(bundle)
    return snapshot if changes is None else snapshot.apply(changes)


def _embedder(snapshot: Snapshot, engine: Engine | None) -> Embedder:
    """What places new items: with the engine's encoder if that made the vectors."""
    if engine is None:
        return Embedder(snapshot.bundle, Limits())
    return Embedder(snapshot.bundle, engine.limits, engine.encoder)
