"""`attributary bundle add|delete|compact|adopt|log`: a bundle after its build, in place or through a running server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import click

from attributary.bundle.bundle import Bundle
from attributary.client.admin import Added, Addition, Compaction
from attributary.delta.change import CompactResult
from attributary.delta.entry import OPERATOR
from attributary.delta.items import NewItem
from attributary.delta.journal.place import changes_of, replayed
from attributary.delta.journal.records import Changes, Entry
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import AttributaryError, InvalidArgumentError
from attributary.files import read_file
from attributary.plain import json_line, plain

from .options import Argument, Option, Who, declared
from .where import AtPlace, BringBack, Lines, Where, user

# One change of the journal, and one wait for the disk.
_BATCH = 64
# Ids on a line; --json has all that are told.
_TOLD = 20


Why: TypeAlias = Annotated[str, "the reason, for the audit"]


@click.command("add")
@declared
def add_command(
    *,
    where: AtPlace,
    as_json: Lines = False,
    corpus: Annotated[Path | None, "items.parquet and pictures: add all of it"] = None,
    picture: Annotated[Path | None, "add this one"] = None,
    item_id: Annotated[int | None, Option("of the one picture", "--id")] = None,
    caption: Annotated[str, ""] = "",
    creator: Annotated[str, ""] = "",
    creator_url: Annotated[str, ""] = "",
    licence: Annotated[str, ""] = "",
    uri: Annotated[str, ""] = "",
    near_dup_of: Annotated[int | None, "an item that it shares credit with"] = None,
    bring_back: BringBack = False,
    why: Why,
    who: Who = None,
) -> None:
    """Add items to BUNDLE, or to what the server at --address serves; each is durable once it is reported.

    Ends with status 1 if an item was refused; the others are added.
    """
    if (corpus is None) == (picture is None):
        raise InvalidArgumentError("items", "exactly one of --corpus and --picture must be given")
    if corpus is not None:
        items = _of_corpus(corpus)
    elif picture is None or item_id is None:
        raise InvalidArgumentError("id", "must be given with --picture")
    else:
        data = read_file(picture, "picture")
        items = iter([Addition(item_id, data, caption, creator, creator_url, licence, uri, near_dup_of)])
    added = refused = held = 0
    for item, outcome in (_add if corpus is None else _add_groups)(items, where, who, why, bring_back):
        if isinstance(outcome, AttributaryError):
            refused += 1
            if as_json:
                click.echo(json_line({"refused": item.id, "reason": str(outcome)}))
            else:
                click.echo(f"item {item.id}: {plain(str(outcome))}", err=True)
        else:
            added += not outcome.held
            held += bool(outcome.held)
            if as_json:
                reply = (
                    {"held": outcome.id, "reason": outcome.held} if outcome.held else {"added": outcome.id}
                )
                click.echo(json_line({**reply, "revision": outcome.revision}))
            elif outcome.held:
                click.echo(f"item {item.id} waits for the operator: {plain(outcome.held)}", err=True)
    if not as_json:
        click.echo(f"added {added}, refused {refused}" + (f", held {held}" if held else ""))
    if refused:
        sys.exit(1)


@click.command("delete")
@declared
def delete_command(
    *,
    where: AtPlace,
    as_json: Lines = False,
    ids: Annotated[tuple[int, ...], Option("repeatable", "--id")] = (),
    creator: Annotated[str, "everything by this creator"] = "",
    licence: Annotated[str, "everything under this licence"] = "",
    source: Annotated[str, "everything whose uri begins with this"] = "",
    dry_run: Annotated[bool, "say what would be deleted, delete nothing"] = False,
    why: Why,
    who: Who = None,
) -> None:
    """Delete items from BUNDLE, or from what the server at --address serves; they are gone when this returns.

    Ends with status 2 if nothing of the kind was ever there, with 1 if some of several ids were not.
    """
    chosen = Selection(ids, creator, licence, source)
    with where.deleting(who, dry_run) as delete:
        done = delete(chosen, why)
    if as_json:
        facts = {"deleted": done.count, "already_deleted": done.already, "unknown": done.unknown}
        facts |= {"revision": done.revision, "similar_names": done.similar, "dry_run": dry_run}
        facts |= {"held": done.held, "near_duplicates": done.duplicates}
        click.echo(json_line(facts))
    else:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {done.count} items, revision {done.revision}")
        waited = ("waited for the operator", done.held)
        stay = ("still there, near duplicates of these", done.duplicates)
        for name, found in (waited, ("deleted before", done.already), ("unknown", done.unknown), stay):
            if found:
                more = f" and {len(found) - _TOLD:,} more" if len(found) > _TOLD else ""
                click.echo(f"{name}: {', '.join(map(str, found[:_TOLD]))}{more}", err=True)
        if done.similar:
            similar = ", ".join(map(repr, done.similar))
            click.echo(f"still there, and perhaps the same: {plain(similar)}", err=True)
    if done.unknown:
        sys.exit(1)


@click.command("compact")
@declared
def compact_command(
    *,
    where: AtPlace,
    as_json: Lines = False,
    erase: Annotated[
        bool,
        "also erase the vectors of deleted items: what these items withhold is then shared by the others",
    ] = False,
    why: Why,
    who: Who = None,
) -> None:
    """Make a bundle of what is in BUNDLE now and put it in its place; a server at --address serves it at once.

    Deleted items lose id, words, creator and addresses; their vectors stay for the sum of shares, unless --erase.
    """
    done: Compaction | CompactResult
    if where.connect:
        if erase:
            raise InvalidArgumentError("erase", "needs the directory: stop the server that writes it first")
        with where.server() as client:
            done = client.compact(why=why, bundle=where.alias)
    else:
        with where.store() as store:
            done = store.compact(who=user(who), why=why, erase=erase)
    if as_json:
        click.echo(json.dumps(asdict(done)))
    elif not done.parent:
        click.echo(f"bundle {done.bundle_id} has no changes to compact")
    else:
        click.echo(
            f"bundle {done.parent} became {done.bundle_id}: {done.added} items added, {done.deleted} deleted"
        )
        if erase:
            click.echo(
                "vectors of deleted items are erased: shares are over what is left, so what these items withheld now "
                "goes to others"
            )


@click.command("adopt")
@declared
def adopt_command(bundle: Annotated[Path, Argument()]) -> None:
    """Move the journal that an older release kept beside BUNDLE into it."""
    with Store(bundle) as store:
        click.echo(f"bundle {store.bundle_id} has its journal inside, revision {store.snapshot.revision}")


@click.command("log")
@declared
def log_command(where: AtPlace, as_json: Lines = False) -> None:
    """Show who changed BUNDLE, when and why, oldest first. BUNDLE may also be a journal's file."""
    lines: list[dict[str, Any]]
    if where.connect:
        with where.server() as client:
            lines = [
                {name: getattr(change, name) for name in ("revision", "kind", "at", "who", "why", "what")}
                | {"items": change.item_count, "ids": change.ids}
                for change in client.changes(bundle=where.alias)
            ]
    else:
        lines = [entry.fields() | {"items": len(entry.ids)} for entry in _entries(where.here)]
    for line in lines:
        if as_json:
            click.echo(json_line(line))
        else:
            what = (
                line["what"]
                or f"ids {', '.join(map(str, line['ids'][:5]))}{' ...' if line['items'] > 5 else ''}"
            )
            done = f"{line['kind']} {line['items']}  {what}  ({line['why']})"
            # A reason or a name that holds a newline would forge lines of the audit.
            click.echo(plain(f"{line['revision']:>6}  {line['at']}  {line['who']}  {done}"))


def _entries(place: Path) -> list[Entry]:
    if place.is_file():
        first, records = replayed(place)
        return Changes.after(first).take(*records).entries
    changes = changes_of(Bundle.open(place, verify=False))
    return [] if changes is None else changes.entries


def _add_groups(
    items: Iterator[Addition], where: Where, who: str | None, why: str, bring_back: bool
) -> Iterator[tuple[Addition, Added | AttributaryError]]:
    """`_add`; where the first of a group of near duplicates does not enter, the next one is the first.

    Nobody stays out because somebody else does.
    """
    while True:
        orphans: dict[int, list[Addition]] = {}
        for item, outcome in _add(items, where, who, why, bring_back):
            first, field = item.near_dup_of, getattr(outcome, "field", "")
            if first is not None and field == "item.near_dup_of":
                orphans.setdefault(first, []).append(item)
            else:
                yield item, outcome
        if not orphans:
            return
        items = iter(
            [
                replace(item, near_dup_of=None if item is group[0] else group[0].id)
                for group in orphans.values()
                for item in group
            ]
        )


def _add(
    items: Iterator[Addition], where: Where, who: str | None, why: str, bring_back: bool
) -> Iterator[tuple[Addition, Added | AttributaryError]]:
    if where.connect:
        sent: list[Addition] = []

        def noted() -> Iterator[Addition]:
            for item in items:
                # Only to say which one a result is about.
                sent.append(item)
                yield item

        with where.server() as client:
            results = client.add_items(noted(), why=why, bundle=where.alias, bring_back=bring_back)
            for number, outcome in enumerate(results):
                yield sent[number], outcome
        return
    with where.store() as store:
        while batch := list(islice(items, _BATCH)):
            together = [
                NewItem(**{name: getattr(item, name) for name in Addition.__dataclass_fields__})
                for item in batch
            ]
            terms = replace(OPERATOR, bring_back=bring_back)
            result = store.add(together, who=user(who), why=why, terms=terms)
            for item, failure, held in zip(batch, result.outcomes, result.held, strict=True):
                yield item, failure or Added(item.id, result.revision, held)


def _of_corpus(corpus: Path) -> Iterator[Addition]:
    from attributary.building.source import read_source

    source = read_source(corpus)
    columns = ("id", "caption", "creator", "creator_url", "licence", "uri", "near_dup_group")
    first_of_group: dict[int, int] = {}
    # Groups of another corpus mean nothing here, but who shares one does.
    for row, picture in zip(source.table.select(columns).to_pylist(), source.pictures, strict=True):
        first = first_of_group.setdefault(row.pop("near_dup_group"), row["id"])
        yield Addition(
            **row, picture=read_file(picture, "picture"), near_dup_of=None if first == row["id"] else first
        )
