"""`attributary bundle held`: what contributors have added and waits for the operator, and what becomes of it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import click

from attributary.bundle.manifest import Manifest
from attributary.delta.held import held_in
from attributary.plain import json_line, plain

from .options import Option, declared
from .where import AtPlace, BringBack, Lines, Where, user


@click.command("held")
@declared
def held_command(
    where: AtPlace,
    as_json: Lines = False,
    release: Annotated[tuple[int, ...], Option("let it enter; repeatable", metavar="ID")] = (),
    refuse: Annotated[tuple[int, ...], Option("forget it; repeatable", metavar="ID")] = (),
    bring_back: BringBack = False,
    why: Annotated[str, "the reason, with --release and --refuse"] = "",
    who: Annotated[str | None, "who decides; default: your user name"] = None,
) -> None:
    """List what waits in BUNDLE, or in what the server at --address serves, or decide: --release ID, --refuse ID.

    Copies of other creators' pictures wait, items of creators who are new, and pictures that show nothing.
    """
    for ids, enter in ((release, True), (refuse, False)):
        if not ids:
            continue
        if where.connect:
            with where.server() as client:
                client.decide_held(
                    ids, enter=enter, why=why, bundle=where.alias, bring_back=enter and bring_back
                )
        else:
            with where.store() as store:
                let_in = partial(store.release, bring_back=bring_back)
                (let_in if enter else store.refuse)(ids, who=user(who), why=why)
        if not as_json:
            click.echo(f"{'released' if enter else 'refused'} {len(ids)} items")
    if not release and not refuse:
        for line in _lines(where):
            like = "" if line["like"] is None else f" (item {line['like']})"
            item = f"{line['id']:>20}  {line['at']}  {line['who']}  {line['creator']}: {line['caption']}"
            shown = f"{item}  {line['reason']}"
            click.echo(json_line(line) if as_json else plain(shown + like))


def _lines(where: Where) -> list[dict[str, Any]]:
    names = ("id", "at", "who", "why", "creator", "caption", "uri", "reason", "like")
    if where.connect:
        found: list[dict[str, Any]] = []
        with where.server() as client:
            more, after = True, ""
            while more:
                page, more = client.held(after=after, bundle=where.alias)
                found += [{name: getattr(one, name) for name in names} for one in page]
                after = page[-1].at if page else after
        return found
    return [
        {
            **{name: getattr(record, name) for name in ("at", "who", "why", "like")},
            **{name: getattr(record.items[0], name) for name in ("id", "creator", "caption", "uri")},
            "reason": record.held,
        }
        for record in held_in(where.here, Manifest.read(where.here)).values()
    ]
