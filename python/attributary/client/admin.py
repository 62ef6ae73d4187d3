"""The client of the admin service: change a bundle that is being served, and which bundles are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from attributary.errors import AttributaryError, InvalidArgumentError
from attributary.v1 import admin_pb2 as pb
from attributary.v1 import admin_pb2_grpc as rpc

from . import channel
from .calls import Call
from .connection import Connection
from .errors import from_result
from .messages import sendable


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


class AdminClient(Connection):
    """Changes what a gateway serves. Needs an admin token; use it over TLS, or inside one machine.

    `bundle` is an alias or a bundle's id, "" the server's default.
    """

    def __init__(self, address: str, *, token: str, tls: channel.Tls | None = None) -> None:
        super().__init__(address, rpc.AdminServiceStub, tls, token, channel.DEFAULT_TIMEOUT_S, retry=False)

    def add_items(
        self,
        items: Iterable[Addition],
        *,
        why: str,
        bundle: str = "",
        timeout_s: float = channel.DEFAULT_STREAM_TIMEOUT_S,
    ) -> Iterator[Added | AttributaryError]:
        """Add any number of items; results come in their order, each once its item is durable and searched.

        `items` is read from another thread, no faster than the server takes them. An addition whose reply was lost may
        be repeated as it was.
        """
        requests = (
            pb.AddItemsRequest(
                request_id=str(number), item=_message(item), why=sendable(why, "why"), bundle=bundle
            )
            for number, item in enumerate(items)
        )
        for response in self._converse("AddItems", requests, timeout_s):
            if response.HasField("error"):
                yield from_result(response.error)
            else:
                yield Added(response.added.id, response.added.revision)

    def add_item(
        self, item: Addition, *, why: str, bundle: str = "", timeout_s: float | None = None
    ) -> Added:
        """Add one item; raises AlreadyExistsError for an id that another item has."""
        request = pb.AddItemRequest(item=_message(item), why=sendable(why, "why"), bundle=bundle)
        read = lambda reply: Added(reply.added.id, reply.added.revision)  # noqa: E731
        return self._ask(Call("AddItem", request, read), timeout_s)

    def delete_items(
        self,
        *,
        ids: Sequence[int] = (),
        creator: str = "",
        licence: str = "",
        source: str = "",
        why: str,
        dry_run: bool = False,
        bundle: str = "",
        timeout_s: float | None = None,
    ) -> Deletion:
        """Delete items by exactly one of ids, creator, licence, or source (what their uri begins with)."""
        given = [name for name, value in _named(ids, creator, licence, source) if value]
        if len(given) != 1:
            raise InvalidArgumentError(
                "selection",
                f"exactly one of ids, creator, licence, source must be given, got {', '.join(given) or 'none'}",
            )
        request = pb.DeleteItemsRequest(why=sendable(why, "why"), dry_run=dry_run, bundle=bundle)
        if ids:
            request.ids.ids.extend(ids)
        else:
            setattr(request, given[0], sendable(creator or licence or source, f"selection.{given[0]}"))
        return self._ask(Call("DeleteItems", request, _deletion), timeout_s)

    def compact(
        self, *, why: str, bundle: str = "", timeout_s: float = channel.DEFAULT_STREAM_TIMEOUT_S
    ) -> Compaction:
        """Make a new bundle of what is there now and serve it; returns when it is served."""
        request = pb.CompactRequest(why=sendable(why, "why"), bundle=bundle)
        return self._ask(Call("Compact", request, _compaction), timeout_s)

    def changes(self, *, after: int = 0, bundle: str = "", timeout_s: float | None = None) -> list[Change]:
        """Return the audit after a revision, oldest first."""
        found: list[Change] = []
        while True:
            request = pb.ListChangesRequest(after_revision=after, limit=1_000, bundle=bundle)
            reply = self._ask(Call("ListChanges", request, lambda reply: reply), timeout_s)
            found += [_change(message) for message in reply.changes]
            if not reply.more or not reply.changes:
                return found
            after = reply.changes[-1].revision

    def load_bundle(
        self,
        path: str,
        *,
        alias: str = "",
        why: str,
        pinned_s: float | None = None,
        timeout_s: float = channel.DEFAULT_STREAM_TIMEOUT_S,
    ) -> Turned:
        """Serve another bundle, a directory as the server sees it, and turn an alias to it; returns when it answers.

        `pinned_s`: how long the bundle before still answers those who name its id.
        """
        request = pb.LoadBundleRequest(path=path, alias=alias, why=sendable(why, "why"), pinned_s=pinned_s)
        read = lambda reply: Turned(reply.bundle.bundle_id, reply.replaced_bundle_id)  # noqa: E731
        return self._ask(Call("LoadBundle", request, read), timeout_s)

    def unload_bundle(
        self, bundle: str, *, why: str, pinned_s: float | None = None, timeout_s: float | None = None
    ) -> Turned:
        """Take a bundle out of service, with its aliases."""
        request = pb.UnloadBundleRequest(bundle=bundle, why=sendable(why, "why"), pinned_s=pinned_s)
        return self._ask(Call("UnloadBundle", request, lambda reply: Turned("", reply.bundle_id)), timeout_s)

    def set_alias(
        self,
        alias: str,
        bundle: str,
        *,
        why: str,
        pinned_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Turned:
        """Turn an alias to a bundle that is there."""
        request = pb.SetAliasRequest(alias=alias, bundle=bundle, why=sendable(why, "why"), pinned_s=pinned_s)
        read = lambda reply: Turned(reply.bundle_id, reply.replaced_bundle_id)  # noqa: E731
        return self._ask(Call("SetAlias", request, read), timeout_s)

    def bundles(self, *, timeout_s: float | None = None) -> Bundles:
        """Return the bundles that are there."""
        return self._ask(Call("ListBundles", pb.ListBundlesRequest(), _bundles), timeout_s)


def _named(ids: Sequence[int], *names: str) -> Iterator[tuple[str, object]]:
    return zip(("ids", "creator", "licence", "source"), (tuple(ids), *names), strict=True)


def _message(item: Addition) -> pb.NewItem:
    return pb.NewItem(
        id=item.id,
        image=item.picture,
        caption=item.caption,
        creator=item.creator,
        creator_url=item.creator_url,
        licence=item.licence,
        uri=item.uri,
        near_dup_of=item.near_dup_of,
    )


def _change(message: pb.Change) -> Change:
    return Change(
        message.revision,
        message.kind,
        message.at,
        message.who,
        message.why,
        message.what,
        message.item_count,
        tuple(message.item_ids),
    )


def _deletion(reply: pb.DeleteItemsResponse) -> Deletion:
    return Deletion(
        reply.deleted_count,
        tuple(reply.deleted_ids),
        tuple(reply.already_deleted_ids),
        tuple(reply.unknown_ids),
        reply.revision,
    )


def _compaction(reply: pb.CompactResponse) -> Compaction:
    return Compaction(reply.bundle_id, reply.parent_bundle_id, reply.added_count, reply.deleted_count)


def _bundles(reply: pb.ListBundlesResponse) -> Bundles:
    return Bundles(tuple(map(_served, reply.bundles)), reply.default_alias)


def _served(message: pb.ServedBundle) -> ServedBundle:
    return ServedBundle(
        bundle_id=message.bundle_id,
        version=message.bundle_version,
        aliases=tuple(message.aliases),
        state=pb.ServedBundle.State.Name(message.state).lower(),
        draining_s=message.draining_s,
        path=message.path,
        revision=message.revision,
        item_count=message.item_count,
        memory_bytes=message.memory_bytes,
        mapped_bytes=message.mapped_bytes,
        calls=message.calls,
        changeable=message.changeable,
    )
