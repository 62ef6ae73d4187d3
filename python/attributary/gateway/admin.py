"""The admin service: deletions, compaction and the audit. Additions, which are a stream, are in `additions.py`.

Everything that touches the store runs in a thread: a change waits for the disk, and a compaction flips the pipeline
through the event loop while it holds changes up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

import structlog

from attributary.attribution.engine import Engine
from attributary.attribution.prepare import Preparer
from attributary.delta.change import AddResult
from attributary.delta.entry import Terms
from attributary.delta.items import NewItem
from attributary.delta.journal.records import Added, Entry
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError, PreconditionError, UnavailableError, check_range
from attributary.v1 import admin_pb2 as pb

from . import translate
from .admission import Admission
from .calls import Call, Kind, UnaryMethod
from .fairness import FairPool
from .pipeline import done_by
from .registry import Registry

log = structlog.get_logger(__name__)
T = TypeVar("T")

SERVICE = pb.DESCRIPTOR.services_by_name["AdminService"].full_name
MAX_IDS_LISTED: Final = 1_000
_DEFAULT_CHANGES, _MAX_CHANGES = 100, 1_000
_THREADS = 4
# One turn of the event loop; longer means that it has stopped.
_FLIP_S = 30.0
# Everything else needs an admin. An addition is as much work as a query.
_KINDS: Final[Mapping[str, Kind]] = {
    "AddItem": Kind("admin", permit=True, need="contribute"),
    "AddItems": Kind("admin", bulk=True, need="contribute"),
}


class Changes:
    """What changes the bundles of a registry. `bundle` is an alias, a bundle's id, or "" for the default."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        # Their own, made when they are needed: an opt-out waits for no addition, no compaction and no query.
        self._deleting = ThreadPoolExecutor(_THREADS, "delete")
        self._changing = FairPool(_THREADS, "change", each=_THREADS - 1)

    def check(self) -> None:
        """Raise PreconditionError if no bundle here can be changed."""
        if all(served.store is None for served in self.registry.bundles):
            self.store(self.registry.default)

    def store(self, bundle: str) -> Store:
        """What changes a bundle; raises NotFoundError, PreconditionError where it cannot be changed."""
        served = self.registry.find(bundle)
        if served.draining:
            raise PreconditionError(
                "bundle", f"{bundle} has been replaced and is draining; name an alias instead"
            )
        if served.store is None and isinstance(served.pipeline.engine, Engine):
            raise PreconditionError(
                "server", "this one follows the changes of its bundles; ask the one that writes them"
            )
        if served.store is None:
            raise PreconditionError(
                "engine",
                "live changes need the embedded engine; change the bundle with `attributary bundle add|delete`, run "
                "`attributary bundle compact`, and swap the result in",
            )
        return served.store

    async def add(self, bundle: str, items: list[NewItem], who: str, why: str, terms: Terms) -> AddResult:
        """Add items together."""
        result = await self.changed(partial(self.store(bundle).add, items, who=who, why=why, terms=terms))
        accepted, held = sum(outcome is None for outcome in result.outcomes), sum(map(bool, result.held))
        refused = len(items) - accepted
        log.info(
            "added", who=who, items=accepted - held, held=held, refused=refused, revision=result.revision
        )
        return result

    async def changed(self, work: Callable[[], T]) -> T:
        """Do what embeds pictures or waits for what does, when it is its caller's turn."""
        return await done_by(self._changing, work)

    async def deleted(self, work: Callable[[], T]) -> T:
        """Do what waits for nobody's additions: delete, or look."""
        return await asyncio.get_running_loop().run_in_executor(self._deleting, work)


class AdminService:
    """The unary methods of attributary.v1.AdminService."""

    def __init__(self, changes: Changes, admission: Admission) -> None:
        self._changes, self._admission = changes, admission

    @property
    def methods(self) -> dict[str, UnaryMethod]:
        """The handlers by name."""
        return {
            "DeleteItems": self.delete_items,
            "ListHeld": self.list_held,
            "DecideHeld": self.decide_held,
            "Compact": self.compact,
            "ListChanges": self.list_changes,
        }

    async def delete_items(self, request: pb.DeleteItemsRequest, context: Call) -> pb.DeleteItemsResponse:
        """Delete by id, creator, licence or source."""
        selection = Selection(tuple(request.ids.ids), request.creator, request.licence, request.source)
        who, dry_run = context.caller.name, request.dry_run
        async with self._admission.one(request.ByteSize()):
            store = self._changes.store(request.bundle)
            delete = partial(store.delete, selection, who=who, why=request.why, dry_run=dry_run)
            with self._changes.registry.deleting(store):
                done = await self._changes.deleted(delete)
        log.info("deleted", who=who, items=len(done.ids), dry_run=dry_run, revision=done.revision)
        return pb.DeleteItemsResponse(
            deleted_count=len(done.ids),
            deleted_ids=done.ids[:MAX_IDS_LISTED],
            already_deleted_ids=done.already[:MAX_IDS_LISTED],
            unknown_ids=done.unknown[:MAX_IDS_LISTED],
            revision=done.revision,
            held_ids=done.held[:MAX_IDS_LISTED],
            similar_names=done.similar[:MAX_IDS_LISTED],
            near_duplicate_ids=done.duplicates[:MAX_IDS_LISTED],
        )

    async def list_held(self, request: pb.ListHeldRequest, context: Call) -> pb.ListHeldResponse:
        """Items that wait for a decision, oldest first."""
        store = self._changes.store(request.bundle)
        held = sorted(await self._changes.deleted(lambda: store.held), key=lambda record: record.at)
        # Items that came together have one time.
        after = [record for record in held if record.at > request.after]
        page = _page(after, MAX_IDS_LISTED, lambda record: record.at)
        return pb.ListHeldResponse(items=map(_held, page), more=len(after) > len(page))

    async def decide_held(self, request: pb.DecideHeldRequest, context: Call) -> pb.DecideHeldResponse:
        """Let items that wait enter, or forget them."""
        ids, who = list(request.ids), context.caller.name
        if not 1 <= len(ids) <= MAX_IDS_LISTED:
            raise InvalidArgumentError("ids", f"must hold 1 to {MAX_IDS_LISTED} ids, got {len(ids)}")
        async with self._admission.one(request.ByteSize()):
            store = self._changes.store(request.bundle)
            release = partial(store.release, bring_back=request.bring_back)
            decide = release if request.enter else store.refuse
            await self._changes.changed(partial(decide, ids, who=who, why=request.why))
        revision = store.snapshot.revision
        log.info("released" if request.enter else "refused", who=who, items=len(ids), revision=revision)
        return pb.DecideHeldResponse(revision=revision)

    async def compact(self, request: pb.CompactRequest, context: Call) -> pb.CompactResponse:
        """Build a new bundle of what is there now and serve it."""
        loop, who = asyncio.get_running_loop(), context.caller.name

        async def turn(engine: Preparer) -> None:
            # Found only now: aliases may have moved while the new bundle was made.
            self._changes.registry.replace(store, engine)

        def flip(engine: Preparer) -> None:
            flipping = asyncio.run_coroutine_threadsafe(turn(engine), loop)
            try:
                flipping.result(_FLIP_S)
            except Exception as error:
                log.exception("the compacted bundle is in place and not served; start the server anew")
                if isinstance(error, TimeoutError):
                    raise UnavailableError(f"no turn of the event loop in {_FLIP_S:g} s") from None
                raise

        async with self._admission.one(request.ByteSize()):
            store = self._changes.store(request.bundle)
            done = await asyncio.to_thread(store.compact, who=who, why=request.why, flip=flip)
        log.info("compacted", who=who, bundle_id=done.bundle_id, before=done.parent)
        return pb.CompactResponse(
            bundle_id=done.bundle_id,
            parent_bundle_id=done.parent,
            added_count=done.added,
            deleted_count=done.deleted,
        )

    async def list_changes(self, request: pb.ListChangesRequest, context: Call) -> pb.ListChangesResponse:
        """The audit."""
        limit = request.limit if request.HasField("limit") else _DEFAULT_CHANGES
        check_range("limit", limit, 1, _MAX_CHANGES)
        store = self._changes.store(request.bundle)
        history = await self._changes.deleted(lambda: store.history)
        # A compaction shares its revision with the change before it.
        entries = [entry for entry in history if entry.revision > request.after_revision]
        page = _page(entries, limit, lambda entry: entry.revision)
        return pb.ListChangesResponse(changes=map(_change, page), more=len(entries) > len(page))


def with_kinds(methods: Mapping[str, T]) -> dict[str, tuple[T, Kind]]:
    """Methods of the admin service by name, each with what it needs."""
    return {
        name: (method, replace(_KINDS.get(name, Kind("admin")), request=getattr(pb, f"{name}Request")))
        for name, method in methods.items()
    }


def _page(found: list[T], most: int, key: Callable[[T], object]) -> list[T]:
    """The first of what was found, and what has the key of the last: the next page begins behind all of it."""
    while most < len(found) and key(found[most]) == key(found[most - 1]):
        most += 1
    return found[:most]


def _held(record: Added) -> pb.HeldItem:
    given = {name: getattr(record, name) for name in ("at", "who", "why", "like")}
    return translate.write(pb.HeldItem, record.items[0], reason=record.held, **given)


def _change(entry: Entry) -> pb.Change:
    return translate.write(pb.Change, entry, item_count=len(entry.ids), item_ids=entry.ids[:MAX_IDS_LISTED])
