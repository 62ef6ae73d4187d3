"""A reader that stays: what the bundle's one writer acknowledges is applied here, wherever that writer runs.

Nothing but files is needed, read-only, and nothing is asked of the writer: now and then the journal's size is looked
at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, Literal

from attributary.attribution.prepare import Preparer
from attributary.bundle.bundle import check_delta, delta_path
from attributary.bundle.manifest import MANIFEST, Manifest
from attributary.errors import BundleError, PreconditionError

from .inherit import put
from .journal.log import End, Reader
from .journal.records import Added, Changes, Deleted, Opened, replay

State = Literal["following", "behind", "damaged"]
STATES: Final[tuple[State, ...]] = ("following", "behind", "damaged")
# A look at files that takes longer waits for a volume that does not answer.
_STUCK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Status:
    """How far a follower is."""

    state: State
    revision: int  # that is served
    behind_s: float  # seconds since everything that was acknowledged was served
    reason: str  # why it does not follow; empty where it does


class Follower:
    """Keeps one engine at what its bundle's journal says. `look` is called again and again, by one thread at a time."""

    def __init__(self, engine: Preparer, clock: Callable[[], float] = monotonic) -> None:
        """`engine` was opened from its bundle's directory, with the changes of that moment."""
        self.engine = engine
        # Links are followed anew at every look: what they lead to may change.
        self.directory = Path(engine.bundle.directory).absolute()
        # Asked at every look, and a digest of the whole manifest each time.
        self._bundle_id = engine.bundle.manifest.bundle_id
        self._journal = _Journal(self.directory, engine.bundle.manifest)
        self._partial = False  # whether additions are missing that only the compacted bundle has
        self._clock = clock
        self._whole_at = clock()
        self._began: float | None = None  # when the look that is under way began
        self._state: State = "following"
        self._reason = ""

    @property
    def status(self) -> Status:
        """How far it is, and why it is no further."""
        now, began = self._clock(), self._began
        state, reason = self._state, self._reason
        if state == "following" and began is not None and now - began > _STUCK_S:
            state, reason = "behind", f"{self.directory} does not answer: a look at it has not come back"
        behind = 0.0 if state == "following" else now - self._whole_at
        return Status(state, self.engine.snapshot.revision, behind, reason)

    @property
    def successor(self) -> str:
        """Id of the bundle that a compaction has put in the place of the engine's; empty where none has."""
        found = self._journal.bundle_id
        return "" if found == self._bundle_id else found

    def look(self) -> None:
        """Apply what has come. What a file can cause is not raised: `status` has it, and the snapshot stays.

        What else goes wrong is raised, after `status` has it, and the same is tried at the next look.
        """
        journal, partial = self._journal, self._partial
        mark = journal.mark
        self._began = self._clock()
        try:
            self._apply(self._more())
            if not self._partial and self._journal.revision < self.engine.snapshot.revision:
                raise BundleError(
                    MANIFEST,
                    f"{self.directory} is at revision {self._journal.revision}: an older copy than the one that was "
                    "read before; restore it, or start the server anew to serve it",
                )
            if self._partial:
                raise PreconditionError(
                    "bundle",
                    f"additions went into bundle {self.successor} before they were read here; it is to be opened",
                )
        except BundleError as error:
            self._state, self._reason = "damaged", str(error)
        except (PreconditionError, OSError) as error:
            self._state, self._reason = "behind", str(error)
        except Exception as error:
            # What was read and not applied would never be read again.
            self._journal, self._partial = journal, partial
            journal.back_to(mark)
            self._state, self._reason = "behind", f"changes cannot be applied: {type(error).__name__}"
            raise
        else:
            self._state, self._reason, self._whole_at = "following", "", self._clock()
        finally:
            self._began = None

    def _more(self) -> list[tuple[int, Added | Deleted]]:
        try:
            return self._journal.more()
        except FileNotFoundError:
            pass
        if not (self.directory / MANIFEST).is_file():
            raise PreconditionError("bundle", f"{self.directory} is not there")
        manifest = Manifest.read(self.directory)
        if manifest.bundle_id == self._journal.bundle_id:
            check_delta(self.directory, manifest)
            # Nobody has ever opened it for changes.
            return []
        return self._go_over(manifest)

    def _go_over(self, manifest: Manifest) -> list[tuple[int, Added | Deleted]]:
        """Go on in the journal of the compacted bundle: revisions go on, too."""
        journal, records = _Journal(self.directory, manifest), list[tuple[int, Added | Deleted]]()
        with contextlib.suppress(FileNotFoundError):
            records = journal.more()
        past = () if journal.opened is None else journal.opened.past
        before = f"{self._journal.bundle_id} -> "
        if not any(entry.kind == "compact" and entry.what.startswith(before) for entry in past):
            raise BundleError(
                MANIFEST,
                f"{self.directory} holds bundle {manifest.bundle_id}, which was not compacted from "
                f"{self._journal.bundle_id}; start the server anew to serve it",
            )
        missed = [entry for entry in past if self.engine.snapshot.revision < entry.revision]
        # The audit has the ids of what was deleted; what was added is in the new bundle alone.
        self._partial |= any(entry.kind == "add" for entry in missed)
        self._journal = journal
        gone = [
            (entry.revision, Deleted(entry.at, entry.who, entry.why, entry.what, entry.ids))
            for entry in missed
            if entry.kind == "delete"
        ]
        return gone + records

    def _apply(self, found: Sequence[tuple[int, Added | Deleted]]) -> None:
        """One step, whatever it holds: a query sees all of it or nothing."""
        snapshot = self.engine.snapshot
        news = [(revision, record) for revision, record in found if revision > snapshot.revision]
        if not news:
            return
        step = Changes(snapshot.revision, snapshot.bundle.manifest.encoder.dim)
        step.take(*(record for _, record in news))
        if self._partial:
            # Deletions hold at once all the same.
            entries = [entry for entry in step.entries if entry.kind == "delete"]
            step = Changes(snapshot.revision, step.dim, deleted=step.deleted, entries=entries)
        else:
            step.revision = news[-1][0]
        put(self.engine, snapshot, snapshot.apply(step))


class _Journal:
    """One bundle's journal, as far as it was read."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.bundle_id = manifest.bundle_id
        self.opened: Opened | None = None
        self._manifest = manifest
        self._reader = Reader(delta_path(directory, manifest.bundle_id))
        self.revision = 0

    @property
    def mark(self) -> tuple[End, Opened | None, int]:
        """How far it was read."""
        return self._reader.end, self.opened, self.revision

    def back_to(self, mark: tuple[End, Opened | None, int]) -> None:
        """Forget what was read since."""
        end, self.opened, self.revision = mark
        self._reader.back_to(end)

    def more(self) -> list[tuple[int, Added | Deleted]]:
        """Records that have come since the last call, with their revisions; raises what `Reader.more` does."""
        mark = self.mark
        payloads = self._reader.more()
        if not payloads:
            return []
        try:
            opened, records = replay(self._reader.path, payloads, self._manifest, self.opened)
        except BundleError:
            # To be looked at, and complained of, again.
            self.back_to(mark)
            raise
        if self.opened is None:
            self.opened, self.revision = opened, opened.revision
        first = self.revision + 1
        self.revision += len(records)
        return list(enumerate(records, first))
