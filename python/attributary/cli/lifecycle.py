"""`attributary bundle add|delete|compact|adopt|log`: a bundle after its build, in place or through a running server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import click

from attributary.bundle.bundle import Bundle
from attributary.client.admin import Added, Addition, Compaction
from attributary.delta.items import NewItem
from attributary.delta.journal.log import read
from attributary.delta.journal.place import changes_of
from attributary.delta.journal.records import Changes, Entry, fold, replay
from attributary.delta.results import CompactResult
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import AttributaryError, InvalidArgumentError
from attributary.files import read_file
from attributary.plain import json_line, plain

from .options import PATH, F, added, who_option
from .where import Where, user, where_options

# One change of the journal, and one wait for the disk.
_BATCH = 64


def _audited(command: F) -> F:
    """Who and why."""
    return added(command, click.option("--why", required=True, help="the reason, for the audit"), who_option)


@click.command("add")
@where_options
@click.option("--corpus", type=PATH, help="items.parquet and pictures: add all of it")
@click.option("--picture", type=PATH, help="add this one")
@click.option("--id", "item_id", type=int, default=None, help="of the one picture")
@click.option("--caption", default="")
@click.option("--creator", default="")
@click.option("--creator-url", default="")
@click.option("--licence", default="")
@click.option("--uri", default="")
@click.option("--near-dup-of", type=int, default=None, help="an item that it shares credit with")
@_audited
def add_command(
    where: Where,
    as_json: bool,
    corpus: Path | None,
    picture: Path | None,
    item_id: int | None,
    why: str,
    who: str | None,
    **fields: Any,
) -> None:
    """Add items to BUNDLE, or to what the server at --address serves; each is durable once it is reported.

    Ends with status 1 if an item was refused; the others are added.
    """
    if (corpus is None) == (picture is None):
        raise InvalidArgumentError("items", "exactly one of --corpus and --picture must be given")
    items = _of_corpus(corpus) if corpus is not None else iter([_of_picture(picture, item_id, fields)])
    added = refused = held = 0
    for item, outcome in _add(items, where, who, why):
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
@where_options
@click.option("--id", "ids", type=int, multiple=True, help="repeatable")
@click.option("--creator", default="", help="everything by this creator")
@click.option("--licence", default="", help="everything under this licence")
@click.option("--source", default="", help="everything whose uri begins with this")
@click.option("--dry-run", is_flag=True, help="say what would be deleted, delete nothing")
@_audited
def delete_command(
    where: Where,
    as_json: bool,
    ids: tuple[int, ...],
    creator: str,
    licence: str,
    source: str,
    dry_run: bool,
    why: str,
    who: str | None,
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
        facts["held"] = done.held
        click.echo(json_line(facts))
    else:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {done.count} items, revision {done.revision}")
        waited = ("waited for the operator", done.held)
        for name, found in (waited, ("deleted before", done.already), ("unknown", done.unknown)):
            if found:
                click.echo(f"{name}: {', '.join(map(str, found))}", err=True)
        if done.similar:
            similar = ", ".join(map(repr, done.similar))
            click.echo(f"still there, and perhaps the same: {plain(similar)}", err=True)
    if done.unknown:
        sys.exit(1)


@click.command("compact")
@where_options
@click.option(
    "--erase",
    is_flag=True,
    help="also erase the vectors of deleted items: what these items withhold is then shared by the others",
)
@_audited
def compact_command(
    where: Where,
    as_json: bool,
    erase: bool,
    why: str,
    who: str | None,
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
@click.argument("bundle", type=PATH)
def adopt_command(bundle: Path) -> None:
    """Move the journal that an older release kept beside BUNDLE into it."""
    with Store(bundle) as store:
        click.echo(f"bundle {store.bundle_id} has its journal inside, revision {store.snapshot.revision}")


@click.command("log")
@where_options
def log_command(where: Where, as_json: bool) -> None:
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
        first, records = replay(place, read(place)[0])
        return fold(Changes.after(first), records).entries
    changes = changes_of(Bundle.open(place, verify=False))
    return [] if changes is None else changes.entries


def _add(
    items: Iterator[Addition], where: Where, who: str | None, why: str
) -> Iterator[tuple[Addition, Added | AttributaryError]]:
    if where.connect:
        sent: list[Addition] = []

        def noted() -> Iterator[Addition]:
            for item in items:
                # Only to say which one a result is about.
                sent.append(item)
                yield item

        with where.server() as client:
            for number, outcome in enumerate(client.add_items(noted(), why=why, bundle=where.alias)):
                yield sent[number], outcome
        return
    with where.store() as store:
        while batch := list(islice(items, _BATCH)):
            together = [
                NewItem(**{name: getattr(item, name) for name in Addition.__dataclass_fields__})
                for item in batch
            ]
            result = store.add(together, who=user(who), why=why)
            for item, failure, held in zip(batch, result.outcomes, result.held, strict=True):
                yield item, failure or Added(item.id, result.revision, held)


def _of_picture(picture: Path | None, item_id: int | None, fields: dict[str, Any]) -> Addition:
    if item_id is None:
        raise InvalidArgumentError("id", "must be given with --picture")
    assert picture is not None
    return Addition(id=item_id, picture=read_file(picture, "picture"), **fields)


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
