"""The clients of the admin service: change a bundle that is being served, and which bundles are.

In every call `bundle` is an alias or a bundle's id, "" the server's default.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from attributary.errors import AttributaryError, InvalidArgumentError
from attributary.v1 import admin_pb2 as pb
from attributary.v1 import admin_pb2_grpc as rpc

from .aio import Awaiting
from .calls import Call, Stream, asked, streamed
from .channel import DEFAULT_STREAM_TIMEOUT_S, DEFAULT_TIMEOUT_S, Connection, Tls
from .errors import from_result
from .messages import made, read
from .sync import Blocking


@dataclass(frozen=True, slots=True)
class Addition:
    """An item to add; `picture` is encoded (JPEG, PNG, WebP, GIF, BMP or AVIF)."""

    id: int
    picture: bytes
    caption: str
    creator: str
    creator_url: str = ""
    licence: str = ""  # SPDX identifier
    uri: str = ""
    near_dup_of: int | None = None  # id of an item that this one shares credit with


@dataclass(frozen=True, slots=True)
class Added:
    """An item that was added, by the change `revision`."""

    id: int
    revision: int
    held: str = ""  # why it waits for the operator and is not searched; empty if it does not


@dataclass(frozen=True, slots=True)
class HeldItem:
    """An item that waits for the operator's decision."""

    id: int
    caption: str
    creator: str
    uri: str
    at: str  # ISO 8601, UTC
    who: str
    why: str
    reason: str  # why it waits
    like: int | None  # the older item that it looks like


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a deletion did; of long lists only the first thousand ids are told."""

    count: int
    ids: tuple[int, ...]
    already: tuple[int, ...]  # of those asked for: deleted before
    unknown: tuple[int, ...]  # of those asked for: never there
    revision: int
    # Other names that still have items, and may be the same creator's or licence's.
    similar: tuple[str, ...] = ()
    held: tuple[int, ...] = ()  # that waited for the operator, and are forgotten
    duplicates: tuple[int, ...] = ()  # that are still there, and near duplicates of the deleted


@dataclass(frozen=True, slots=True)
class Compaction:
    """The bundle served now, the one before (empty: there was nothing to do), and what was merged."""

    bundle_id: str
    parent: str
    added: int
    deleted: int


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the audit."""

    revision: int
    kind: str  # "add", "delete" or "compact"
    at: str  # ISO 8601, UTC
    who: str
    why: str
    what: str
    item_count: int
    ids: tuple[int, ...]  # the first thousand


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """A bundle that a server holds."""

    bundle_id: str
    version: str
    aliases: tuple[str, ...]
    state: str  # "serving", or "draining": it answers those who name its id, for `draining_s`
    draining_s: float
    path: str  # on the server
    revision: int
    item_count: int
    memory_bytes: int  # held: index, items, encoder, additions
    mapped_bytes: int  # mapped from files
    calls: int  # inside it now
    changeable: bool


@dataclass(frozen=True, slots=True)
class Bundles:
    """The bundles of a server, and the alias that a request which names none gets."""

    bundles: tuple[ServedBundle, ...]
    default_alias: str


@dataclass(frozen=True, slots=True)
class Turned:
    """Which bundle is served now, and which was before; either is empty where there is none."""

    bundle_id: str
    replaced: str


def add_items(
    items: Iterable[Addition] | AsyncIterable[Addition],
    *,
    why: str,
    bundle: str = "",
    bring_back: bool = False,
    timeout_s: float = DEFAULT_STREAM_TIMEOUT_S,
) -> Stream[Added | AttributaryError]:
    """Add any number of items; results come in their order, each once its item is durable and searched.

    `items` is read no faster than the server takes them: by `AdminClient` from another thread. An addition whose reply
    was lost may be repeated as it was. A deleted item's picture is PreconditionError unless `bring_back` lets it in.
    """

    def message(number: int, item: Addition) -> pb.AddItemsRequest:
        item_ = _message(item)
        facts = {"why": why, "bundle": bundle, "bring_back": bring_back}
        return made(pb.AddItemsRequest, request_id=str(number), item=item_, **facts)

    def outcome(reply: pb.AddItemsResponse) -> Added | AttributaryError:
        return from_result(reply.error) if reply.HasField("error") else read(Added, reply.added)

    return Stream("AddItems", items, message, outcome, timeout_s)


def add_item(
    item: Addition, *, why: str, bundle: str = "", bring_back: bool = False, timeout_s: float | None = None
) -> Call[Added]:
    """Add one item.

    Raises AlreadyExistsError for an id that another item has, PreconditionError for the picture of a deleted item
    unless `bring_back` lets it in.
    """
    request = made(pb.AddItemRequest, item=_message(item), why=why, bundle=bundle, bring_back=bring_back)
    return Call("AddItem", request, lambda reply: read(Added, reply.added), timeout_s)


def delete_items(
    *,
    ids: Sequence[int] = (),
    creator: str = "",
    licence: str = "",
    source: str = "",
    why: str,
    dry_run: bool = False,
    bundle: str = "",
    timeout_s: float | None = None,
) -> Call[Deletion]:
    """Delete items by exactly one of ids, creator, licence, or source (what their uri begins with)."""
    named = {"ids": ids, "creator": creator, "licence": licence, "source": source}
    given = [
        name
        for name, value in named.items()
        if value is not None and (not isinstance(value, Sized) or len(value))
    ]
    if len(given) != 1:
        raise InvalidArgumentError(
            "selection",
            f"exactly one of ids, creator, licence, source must be given, got {', '.join(given) or 'none'}",
        )
    [name] = given
    value = made(pb.Ids, "selection.", ids=ids) if name == "ids" else named[name]
    request = made(pb.DeleteItemsRequest, why=why, dry_run=dry_run, bundle=bundle)
    request.MergeFrom(made(pb.DeleteItemsRequest, "selection.", **{name: value}))

    def deletion(reply: pb.DeleteItemsResponse) -> Deletion:
        deleted, already, unknown = map(
            tuple, (reply.deleted_ids, reply.already_deleted_ids, reply.unknown_ids)
        )
        similar, held = tuple(reply.similar_names), tuple(reply.held_ids)
        duplicates = tuple(reply.near_duplicate_ids)
        return Deletion(
            reply.deleted_count, deleted, already, unknown, reply.revision, similar, held, duplicates
        )

    return Call("DeleteItems", request, deletion, timeout_s)


def list_held(
    *, after: str = "", bundle: str = "", timeout_s: float | None = None
) -> Call[tuple[list[HeldItem], bool]]:
    """Return a page of what waits for a decision, those that came after an `at`, and whether there is more."""
    request = made(pb.ListHeldRequest, bundle=bundle, after=after)

    def page(reply: pb.ListHeldResponse) -> tuple[list[HeldItem], bool]:
        found = [read(HeldItem, one, like=one.like if one.HasField("like") else None) for one in reply.items]
        return found, reply.more

    return Call("ListHeld", request, page, timeout_s)


def decide_held(
    ids: Sequence[int],
    *,
    enter: bool,
    why: str,
    bundle: str = "",
    bring_back: bool = False,
    timeout_s: float | None = None,
) -> Call[int]:
    """Let items that wait enter, or forget them; all or none. Returns the bundle's revision.

    The picture of a deleted item enters with `bring_back` alone: PreconditionError.
    """
    request = made(pb.DecideHeldRequest, ids=ids, enter=enter, why=why, bundle=bundle, bring_back=bring_back)
    return Call("DecideHeld", request, lambda reply: int(reply.revision), timeout_s)


def compact(*, why: str, bundle: str = "", timeout_s: float = DEFAULT_STREAM_TIMEOUT_S) -> Call[Compaction]:
    """Make a new bundle of what is there now and serve it; returns when it is served."""
    request = made(pb.CompactRequest, why=why, bundle=bundle)
    return Call(
        "Compact",
        request,
        lambda reply: Compaction(
            reply.bundle_id, reply.parent_bundle_id, reply.added_count, reply.deleted_count
        ),
        timeout_s,
    )


def list_changes(
    *, after: int = 0, bundle: str = "", timeout_s: float | None = None
) -> Call[tuple[list[Change], bool]]:
    """Return a page of the audit after a revision, oldest first, and whether there is more."""
    request = made(pb.ListChangesRequest, after_revision=after, limit=1_000, bundle=bundle)

    def page(reply: pb.ListChangesResponse) -> tuple[list[Change], bool]:
        found = [read(Change, change, ids=tuple(change.item_ids)) for change in reply.changes]
        return found, reply.more and bool(found)

    return Call("ListChanges", request, page, timeout_s)


def load_bundle(
    path: str,
    *,
    alias: str = "",
    why: str,
    pinned_s: float | None = None,
    bring_back: bool = False,
    timeout_s: float = DEFAULT_STREAM_TIMEOUT_S,
) -> Call[Turned]:
    """Serve another bundle, a directory as the server sees it, and turn an alias to it; returns when it answers.

    `pinned_s`: how long the bundle before still answers those who name its id. `bring_back`: what was deleted from that
    one may come back; else it is deleted from this one too.
    """
    request = made(
        pb.LoadBundleRequest, path=path, alias=alias, why=why, pinned_s=pinned_s, bring_back=bring_back
    )
    return Call(
        "LoadBundle",
        request,
        lambda reply: Turned(reply.bundle.bundle_id, reply.replaced_bundle_id),
        timeout_s,
    )


def unload_bundle(
    bundle: str, *, why: str, pinned_s: float | None = None, timeout_s: float | None = None
) -> Call[Turned]:
    """Take a bundle out of service, with its aliases."""
    request = made(pb.UnloadBundleRequest, bundle=bundle, why=why, pinned_s=pinned_s)
    return Call("UnloadBundle", request, lambda reply: Turned("", reply.bundle_id), timeout_s)


def set_alias(
    alias: str,
    bundle: str,
    *,
    why: str,
    pinned_s: float | None = None,
    bring_back: bool = False,
    timeout_s: float | None = None,
) -> Call[Turned]:
    """Turn an alias to a bundle that is there; `bring_back` as in `load_bundle`."""
    request = made(
        pb.SetAliasRequest, alias=alias, bundle=bundle, why=why, pinned_s=pinned_s, bring_back=bring_back
    )
    return Call(
        "SetAlias", request, lambda reply: Turned(reply.bundle_id, reply.replaced_bundle_id), timeout_s
    )


def bundles(*, timeout_s: float | None = None) -> Call[Bundles]:
    """Return the bundles that are there."""

    def served(message: pb.ServedBundle) -> ServedBundle:
        state = pb.ServedBundle.State.Name(message.state).lower()
        return read(ServedBundle, message, version=message.bundle_version, state=state)

    return Call(
        "ListBundles",
        pb.ListBundlesRequest(),
        lambda reply: Bundles(tuple(map(served, reply.bundles)), reply.default_alias),
        timeout_s,
    )


class _AdminCalls:
    """What both clients of the admin service have."""

    maker: ClassVar[Any]  # of channels: `grpc` or `grpc.aio`

    def __init__(self, address: str, *, token: str, tls: Tls | None = None) -> None:
        stub = rpc.AdminServiceStub
        self._connection = Connection(self.maker, stub, address, tls, token, DEFAULT_TIMEOUT_S, retry=False)

    add_items = streamed(add_items)
    add_item = asked(add_item)
    delete_items = asked(delete_items)
    held = asked(list_held)
    decide_held = asked(decide_held)
    compact = asked(compact)
    load_bundle = asked(load_bundle)
    unload_bundle = asked(unload_bundle)
    set_alias = asked(set_alias)
    bundles = asked(bundles)


class AdminClient(_AdminCalls, Blocking):
    """Changes what a gateway serves. Needs an admin token; use it over TLS, or inside one machine."""

    def changes(self, *, after: int = 0, bundle: str = "", timeout_s: float | None = None) -> list[Change]:
        """Return the audit after a revision, oldest first."""
        found: list[Change] = []
        more = True
        while more:
            page, more = self._ask(list_changes, after=after, bundle=bundle, timeout_s=timeout_s)
            found += page
            after = page[-1].revision if page else after
        return found


class AsyncAdminClient(_AdminCalls, Awaiting):
    """Changes what a gateway serves, as `AdminClient` does. Create it inside the event loop that uses it."""

    async def changes(
        self, *, after: int = 0, bundle: str = "", timeout_s: float | None = None
    ) -> list[Change]:
        """Return the audit after a revision, oldest first."""
        found: list[Change] = []
        more = True
        while more:
            page, more = await self._ask(list_changes, after=after, bundle=bundle, timeout_s=timeout_s)
            found += page
            after = page[-1].revision if page else after
        return found


def _message(item: Addition) -> pb.NewItem:
    if not isinstance(item, Addition):
        raise InvalidArgumentError("item", f"must be an Addition, got {type(item).__name__}")
    facts = asdict(item)
    return made(pb.NewItem, "item.", image=facts.pop("picture"), **facts)
