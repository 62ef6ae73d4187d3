"""Which bundles a server holds: load, unload, turn an alias, list. Part of attributary.v1.AdminService."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple, TypeAlias

import structlog

from attributary.attribution.engine import Engine
from attributary.attribution.prepare import Preparer
from attributary.delta.change import check_words
from attributary.delta.inherit import inherit_deletions
from attributary.delta.journal.records import left_by_name
from attributary.delta.selection import MAX_IDS, Selection
from attributary.delta.store import Store
from attributary.errors import BundleError, InvalidArgumentError, PreconditionError, check_range
from attributary.v1 import admin_pb2 as pb

from .calls import Call, UnaryMethod
from .config import GatewayConfig, check_alias
from .opened import OpenBundle, Opened
from .registry import Registry, Served, compacted_from
from .remote import RemoteEngine

log = structlog.get_logger(__name__)

_Turning: TypeAlias = pb.LoadBundleRequest | pb.SetAliasRequest
# The bundle's files that are read into memory.
_HELD: Final = ("index.faiss", "encoder.onnx", "items.parquet")


class BundleService:
    """LoadBundle, UnloadBundle, SetAlias, ListBundles. One change at a time."""

    def __init__(
        self, registry: Registry, config: GatewayConfig, open_bundle: OpenBundle | None, *, follows: bool
    ) -> None:
        """`follows`: the default alias leads where the engine on the network says, and nowhere else."""
        self._registry, self._config = registry, config
        self._open_bundle, self._follows = open_bundle, follows
        self._changing = asyncio.Lock()
        served = [found.pipeline.engine.bundle.directory.resolve().parent for found in registry.bundles]
        self._roots = [config.bundle_root.resolve()] if config.bundle_root is not None else served

    @property
    def methods(self) -> dict[str, UnaryMethod]:
        """The handlers by name."""
        return {
            "LoadBundle": self.load,
            "UnloadBundle": self.unload,
            "SetAlias": self.set_alias,
            "ListBundles": self.list_all,
        }

    async def load(self, request: pb.LoadBundleRequest, context: Call) -> pb.LoadBundleResponse:
        """Open, verify and serve another bundle; turn an alias to it."""
        who, pinned = _asked(request, context)
        if request.alias:
            check_alias(request.alias)
            self._check_followed(request.alias)
        place = await asyncio.to_thread(self._place, request.path)
        self._check_alone()
        async with self._changing:
            served = self._there(place)
            if served is None:
                opened = await self._opened(place, request)
                await self._keep_names(opened, who, request)
                served = self._registry.add(opened.engine, opened.store)
            before = _id(await self._turn(served.bundle_id, who, request, pinned))
            self._registry.keep(served.bundle_id)
        log.info(
            "loaded", who=who, why=request.why, bundle_id=served.bundle_id, alias=request.alias, before=before
        )
        return pb.LoadBundleResponse(bundle=_served(self._registry, served), replaced_bundle_id=before)

    async def unload(self, request: pb.UnloadBundleRequest, context: Call) -> pb.UnloadBundleResponse:
        """Take a bundle out of service."""
        who, pinned = _asked(request, context)
        self._check_alone()
        async with self._changing:
            served = self._registry.remove(request.bundle, pinned_s=pinned)
        log.info("unloaded", who=who, why=request.why, bundle_id=served.bundle_id)
        return pb.UnloadBundleResponse(bundle_id=served.bundle_id)

    async def set_alias(self, request: pb.SetAliasRequest, context: Call) -> pb.SetAliasResponse:
        """Turn an alias to a bundle that is there."""
        who, pinned = _asked(request, context)
        check_alias(request.alias)
        self._check_followed(request.alias)
        self._check_alone()
        async with self._changing:
            before = _id(await self._turn(request.bundle, who, request, pinned))
            now = _id(self._registry.behind(request.alias))
        log.info("alias set", who=who, why=request.why, alias=request.alias, bundle_id=now, before=before)
        return pb.SetAliasResponse(bundle_id=now, replaced_bundle_id=before)

    async def list_all(self, request: pb.ListBundlesRequest, context: Call) -> pb.ListBundlesResponse:
        """Every bundle that answers."""
        bundles = [_served(self._registry, served) for served in self._registry.bundles]
        return pb.ListBundlesResponse(bundles=bundles, default_alias=self._registry.default)

    def _there(self, place: Path) -> Served | None:
        """A bundle that is served from a directory and held open for changes: nobody can have replaced it there."""
        stores = ((served, served.store) for served in self._registry.bundles)
        return next((served for served, store in stores if store and store.directory == place), None)

    async def _turn(self, bundle: str, who: str, request: _Turning, pinned_s: float | None) -> Served | None:
        """Turn the alias, if one is named, to a bundle with every deletion from the one before; return that one.

        What is deleted, or compacted, while deletions are taken over would be lost: then it is done once more.
        """
        registry = self._registry

        def seen() -> tuple[object, ...]:
            before, engine = registry.behind(request.alias), registry.find(bundle).pipeline.engine
            if before is None:
                return engine, None
            snapshot = before.pipeline.engine.snapshot
            return engine, before, snapshot.deleted, snapshot.filters.former

        while True:
            before, now = registry.behind(request.alias), seen()
            served = registry.find(bundle)
            await asyncio.to_thread(self._take_over, request, served.pipeline.engine, served.store)
            await self._keep_deletions(bundle, who, request)
            if before is not None and (under_way := registry.deletions(before)):
                await asyncio.wait(under_way)
            elif now == seen():
                return registry.set_alias(request.alias, bundle, pinned_s=pinned_s) if request.alias else None

    async def _keep_deletions(self, bundle: str, who: str, request: _Turning) -> None:
        """Delete for good from a bundle that is to serve what it was told in memory alone, by others in its place.

        Who left by name the bundle that the alias leads to is noted as well, for deliveries to come.
        """
        why = "deleted from another bundle in its place"
        while (store := (served := self._registry.find(bundle)).store) is not None:
            gone = served.pipeline.engine.snapshot.deleted.keys() - store.snapshot.deleted.keys()
            if not gone:
                break
            ids = Selection(tuple(sorted(gone)[:MAX_IDS]))
            await asyncio.to_thread(store.delete, ids, who=who, why=why)
        before = self._registry.behind(request.alias)
        other = None if before is None else before.store
        if store is not None and other is not None and other is not store and not request.bring_back:
            await asyncio.to_thread(store.keep_out, left_by_name(other.history), who=who, why=why)

    async def _keep_names(self, opened: Opened, who: str, request: _Turning) -> None:
        """Note who left a bundle by name in another copy of it, which is about to take its place and its aliases."""
        bundle_id = opened.engine.bundle.manifest.bundle_id
        same = [
            found.store for found in self._registry.bundles if found.bundle_id == bundle_id and found.store
        ]
        if opened.store is not None and not request.bring_back:
            for store in same:
                left, why = left_by_name(store.history), "deleted from another copy of it"
                await asyncio.to_thread(opened.store.keep_out, left, who=who, why=why)

    def _take_over(self, request: _Turning, engine: Preparer, store: Store | None) -> None:
        """Take out of a bundle what was deleted from the one that the alias leads to; built anew, it does not know.

        Where there is a `store` it is deleted for good next; else for as long as this process runs. Raises
        PreconditionError if nothing would be left.
        """
        before = self._registry.behind(request.alias)
        if before is None or before.pipeline.engine is engine or request.bring_back:
            return
        known, other = engine.snapshot, before.pipeline.engine
        compacted = compacted_from(other) == engine.bundle.manifest.bundle_id
        left = () if before.store is None else left_by_name(before.store.history)
        if not inherit_deletions(engine, other.snapshot, compacted, renumbered=True, left=left):
            raise PreconditionError(
                "bundle", f"has nothing that was not deleted from the bundle that {request.alias} leads to"
            )
        if (taken := len(engine.snapshot.deleted) - len(known.deleted)) and store is None:
            log.warning(
                "deletions are in memory alone", bundle_id=known.bundle.manifest.bundle_id, items=taken
            )

    async def _opened(self, place: Path, request: pb.LoadBundleRequest) -> Opened:
        if self._open_bundle is None:
            raise PreconditionError("server", "was started without a way to open further bundles")
        # Its hashes and golden queries are part of opening; the golden queries warm it, too.
        await self._registry.released(place)
        await asyncio.to_thread(check_room, place)
        opening = asyncio.ensure_future(asyncio.to_thread(self._open_bundle, place))
        try:
            opened = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on: what it opens must not keep the writer's lock.
            opening.add_done_callback(_close_unused)
            raise
        except BundleError as error:
            raise PreconditionError("bundle", f"{place.name} must not be served: {error}") from error
        try:
            await _check_there(opened.engine, self._config.remote_timeout_s)
            self._registry.check_newer(opened.engine)
            await asyncio.to_thread(self._take_over, request, opened.engine, opened.store)
        except BaseException:
            if opened.store is not None:
                await asyncio.to_thread(opened.store.close)
            raise
        return opened

    def _place(self, path: str) -> Path:
        if not path or "\0" in path:
            raise InvalidArgumentError("path", "must be a bundle's directory")
        try:
            place = (self._roots[0] / path).resolve()
            if not any(place.is_relative_to(root) for root in self._roots):
                raise InvalidArgumentError("path", "is not below the folder that this server loads from")
            if not place.is_dir():
                raise InvalidArgumentError("path", f"there is no directory {place}")
        except (OSError, RuntimeError) as error:
            raise InvalidArgumentError("path", f"cannot be resolved: {error}") from None
        return place

    def _check_alone(self) -> None:
        """A process that is started anew serves what the server was started with, so all of them do."""
        if self._config.processes > 1:
            raise PreconditionError(
                "server",
                f"has {self._config.processes} processes, which serve the bundles that it was started with; start it "
                "anew, or with --processes 1. Additions, deletions and compactions reach all of them",
            )

    def _check_followed(self, alias: str) -> None:
        if self._follows and alias == self._registry.default:
            raise PreconditionError(
                "alias",
                f"{alias} leads to what Triton serves: use `attributary triton load`, or --no-remote-follow",
            )


def _close_unused(opening: asyncio.Future[Opened]) -> None:
    if not opening.cancelled() and opening.exception() is None and (store := opening.result().store):
        opening.get_loop().run_in_executor(None, store.close)


async def _check_there(engine: Preparer, timeout_s: float) -> None:
    """Hold an engine on the network to its golden queries; one in this process has been."""
    if not isinstance(engine, RemoteEngine):
        return
    if not await engine.is_ready(timeout_s):
        raise PreconditionError(
            "bundle", "Triton has no models of this bundle ready; materialise and load them"
        )
    try:
        await engine.verify()
    except BundleError as error:
        raise PreconditionError("bundle", f"must not be served: {error}") from error


def _served(registry: Registry, served: Served) -> pb.ServedBundle:
    engine = served.pipeline.engine
    snapshot, manifest = engine.snapshot, engine.bundle.manifest
    held, mapped = footprint(engine)
    return pb.ServedBundle(
        bundle_id=manifest.bundle_id,
        bundle_version=manifest.version,
        aliases=registry.aliases_of(served),
        state=pb.ServedBundle.DRAINING if served.draining else pb.ServedBundle.SERVING,
        draining_s=max(0.0, served.until - monotonic()) if served.draining else 0.0,
        path=str(engine.bundle.directory),
        revision=snapshot.revision,
        item_count=snapshot.item_count,
        memory_bytes=held,
        mapped_bytes=mapped,
        calls=served.pipeline.calls,
        changeable=served.store is not None and not served.draining,
    )


def _asked(request: _Turning | pb.UnloadBundleRequest, context: Call) -> tuple[str, float | None]:
    """Return who asks, and how long the bundle before still answers; raises InvalidArgumentError."""
    who, pinned = context.caller.name, float(request.pinned_s) if request.HasField("pinned_s") else None
    if pinned is not None:
        check_range("pinned_s", pinned, 0, 86_400)
    check_words(who, request.why)
    if not isinstance(request, pb.LoadBundleRequest) and not request.bundle:
        raise InvalidArgumentError("bundle", "must be given: an alias or a bundle's id")
    return who, pinned


def _id(served: Served | None) -> str:
    return "" if served is None else served.bundle_id


class Footprint(NamedTuple):
    """Bytes of one bundle."""

    held: int  # index, items, encoder weights, additions
    mapped: int  # vectors: mapped from a file, the system may drop them


def check_room(place: Path) -> None:
    """Raise PreconditionError if a bundle's directory would not fit into the memory that is left.

    What is mapped does not count. An unknown limit is none.
    """
    needed = sum((place / name).stat().st_size for name in _HELD if (place / name).is_file())
    left = available()
    if left is not None and needed > left:
        raise PreconditionError(
            "memory",
            f"the bundle needs about {needed >> 20} MiB, {left >> 20} MiB are left; unload another one first",
        )


def available() -> int | None:
    """Bytes of memory that this process may still take: of the machine, or of its cgroup; None if nobody knows."""
    known = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        known.append(int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        # "max" where there is none: that is no number.
        most = int((group / "memory.max").read_text())
        known.append(max(0, most - int((group / "memory.current").read_text())))
    return min(known, default=None)


def footprint(engine: Preparer) -> Footprint:
    """Account for an engine: its items always; encoder, index and vectors where it computes in this process."""
    snapshot = engine.snapshot
    bundle, index = snapshot.bundle, snapshot.bundle.manifest.index
    held = bundle.items.nbytes
    # Added vectors are kept in fp16 and in float32.
    held += 3 * snapshot.added.nbytes
    if snapshot.alive is not None:
        held += snapshot.alive.nbytes
    if not isinstance(engine, Engine):
        return Footprint(held, 0)
    held += round(index.bytes_per_item * len(bundle.vectors))
    with contextlib.suppress(OSError):
        # It may have been replaced on the disk since it was opened.
        held += bundle.encoder_path.stat().st_size
    return Footprint(held, int(bundle.vectors.nbytes))
