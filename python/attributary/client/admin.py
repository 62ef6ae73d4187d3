"""The client of the admin service: add, delete, compact, and read the audit of a bundle that is being served."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from attributary.errors import AttributaryError, InvalidArgumentError
from attributary.proxy import proxy_of
from attributary.v1 import admin_pb2 as pb
from attributary.v1 import admin_pb2_grpc as rpc

from . import channel
from .errors import from_result, from_rpc
from .messages import sendable


@dataclass(frozen=True, slots=True)
class Addition:
    """An item to add; `picture` is encoded (JPEG, PNG, WebP, GIF or BMP)."""

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


class AdminClient:
    """Changes what a gateway serves. Needs an admin token; use it over TLS, or inside one machine."""

    def __init__(self, address: str, *, token: str, tls: channel.Tls | None = None) -> None:
        self._metadata = channel.metadata(token)
        given = channel.options(address, False)
        self._proxy = proxy_of(address)
        self._channel = (
            grpc.insecure_channel(address, given)
            if tls is None
            else grpc.secure_channel(address, tls.credentials(), given)
        )
        self._stub = rpc.AdminServiceStub(self._channel)

    def add_items(
        self, items: Iterable[Addition], *, why: str, timeout_s: float = channel.DEFAULT_STREAM_TIMEOUT_S
    ) -> Iterator[Added | AttributaryError]:
        """Add any number of items; results come in their order, each once its item is durable and searched.

        `items` is read from another thread, no faster than the server takes them.
        """
        failure: list[BaseException] = []

        def requests() -> Iterator[pb.AddItemsRequest]:
            try:
                for number, item in enumerate(items):
                    yield pb.AddItemsRequest(
                        request_id=str(number), item=_message(item), why=sendable(why, "why")
                    )
            except Exception as error:
                failure.append(error)
                raise

        call = self._stub.AddItems(requests(), timeout=timeout_s, metadata=self._metadata)
        try:
            for response in call:
                if response.HasField("error"):
                    yield from_result(response.error)
                else:
                    yield Added(response.added.id, response.added.revision)
        except grpc.RpcError as error:
            raise (failure[0] if failure else from_rpc(error, self._proxy)) from None
        finally:
            call.cancel()

    def delete_items(
        self,
        *,
        ids: Sequence[int] = (),
        creator: str = "",
        licence: str = "",
        source: str = "",
        why: str,
        dry_run: bool = False,
        timeout_s: float = channel.DEFAULT_TIMEOUT_S,
    ) -> Deletion:
        """Delete items by exactly one of ids, creator, licence, or source (what their uri begins with)."""
        given = [name for name, value in _named(ids, creator, licence, source) if value]
        if len(given) != 1:
            raise InvalidArgumentError(
                "selection",
                f"exactly one of ids, creator, licence, source must be given, got {', '.join(given) or 'none'}",
            )
        request = pb.DeleteItemsRequest(why=sendable(why, "why"), dry_run=dry_run)
        if ids:
            request.ids.ids.extend(ids)
        else:
            setattr(request, given[0], sendable(creator or licence or source, f"selection.{given[0]}"))
        try:
            reply = self._stub.DeleteItems(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc(error, self._proxy) from None
        return Deletion(
            reply.deleted_count,
            tuple(reply.deleted_ids),
            tuple(reply.already_deleted_ids),
            tuple(reply.unknown_ids),
            reply.revision,
        )

    def compact(self, *, why: str, timeout_s: float = channel.DEFAULT_STREAM_TIMEOUT_S) -> Compaction:
        """Make a new bundle of what is there now and serve it; returns when it is served."""
        request = pb.CompactRequest(why=sendable(why, "why"))
        try:
            reply = self._stub.Compact(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc(error, self._proxy) from None
        return Compaction(reply.bundle_id, reply.parent_bundle_id, reply.added_count, reply.deleted_count)

    def changes(self, *, after: int = 0, timeout_s: float = channel.DEFAULT_TIMEOUT_S) -> list[Change]:
        """Return the audit after a revision, oldest first."""
        found: list[Change] = []
        while True:
            request = pb.ListChangesRequest(after_revision=after, limit=1_000)
            try:
                reply = self._stub.ListChanges(request, timeout=timeout_s, metadata=self._metadata)
            except grpc.RpcError as error:
                raise from_rpc(error, self._proxy) from None
            found += [_change(message) for message in reply.changes]
            if not reply.more or not reply.changes:
                return found
            after = reply.changes[-1].revision

    def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _named(ids: Sequence[int], *names: str) -> Iterator[tuple[str, object]]:
    return zip(("ids", "creator", "licence", "source"), (tuple(ids), *names), strict=True)


def _message(item: Addition) -> pb.NewItem:
    texts = {
        name: sendable(getattr(item, name), f"item.{name}")
        for name in ("caption", "creator", "creator_url", "licence", "uri")
    }
    return pb.NewItem(id=item.id, image=item.picture, near_dup_of=item.near_dup_of, **texts)


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
