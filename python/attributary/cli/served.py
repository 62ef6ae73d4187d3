"""`attributary bundle load|unload|alias|served`: which bundles a running server holds, and what leads to them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, TypeAlias

import click

from attributary.client.admin import ServedBundle, Turned
from attributary.plain import json_line, plain

from .options import Admin, Argument, Json, Option, declared

Why: TypeAlias = Annotated[str, "the reason, for the server's log"]
Pinned: TypeAlias = Annotated[
    float | None,
    Option(
        "how long the bundle before answers those who name its id; default: the server's own",
        kind=click.FloatRange(0, 86_400),
    ),
]
BringBack: TypeAlias = Annotated[
    bool, "what was deleted from the bundle before may come back; else it is deleted from this one too"
]
Word: TypeAlias = Annotated[str, Argument()]


@click.command("load")
@declared
def load_command(
    *,
    path: Word,
    alias: Annotated[str, "turn this alias to it; without one it answers to its id only"] = "",
    bring_back: BringBack = False,
    why: Why,
    pinned_s: Pinned = None,
    admin: Admin,
    as_json: Json = False,
) -> None:
    """Serve another bundle, PATH as the server sees it; returns when it has been verified and answers."""
    with admin() as client:
        _show(
            client.load_bundle(path, alias=alias, why=why, pinned_s=pinned_s, bring_back=bring_back), as_json
        )


@click.command("unload")
@declared
def unload_command(
    *, bundle: Word, why: Why, pinned_s: Pinned = None, admin: Admin, as_json: Json = False
) -> None:
    """Take BUNDLE, an alias or an id, out of service with its aliases."""
    with admin() as client:
        _show(client.unload_bundle(bundle, why=why, pinned_s=pinned_s), as_json)


@click.command("alias")
@declared
def alias_command(
    *,
    alias: Word,
    bundle: Word,
    bring_back: BringBack = False,
    why: Why,
    pinned_s: Pinned = None,
    admin: Admin,
    as_json: Json = False,
) -> None:
    """Turn ALIAS to BUNDLE, an alias or an id that the server has."""
    with admin() as client:
        _show(client.set_alias(alias, bundle, why=why, pinned_s=pinned_s, bring_back=bring_back), as_json)


@click.command("served")
@declared
def served_command(admin: Admin, as_json: Json = False) -> None:
    """List the bundles that a server holds, with their memory."""
    with admin() as client:
        found = client.bundles()
    if as_json:
        click.echo(json_line(asdict(found)))
    else:
        for bundle in found.bundles:
            click.echo(_line(bundle, found.default_alias))


def _show(turned: Turned, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(turned)))
        return
    parts = [f"serves {turned.bundle_id}"] if turned.bundle_id else []
    parts += [f"{turned.replaced} goes"] if turned.replaced else []
    click.echo("; ".join(parts))


def _line(bundle: ServedBundle, default: str) -> str:
    """A bundle on a line: a narrow terminal wraps it, a table would lose half of it."""
    aliases = ", ".join(f"{alias} (default)" if alias == default else alias for alias in bundle.aliases)
    state = bundle.state if bundle.state == "serving" else f"{bundle.state} for {bundle.draining_s:.0f} s"
    size = f"{bundle.memory_bytes / 1e6:.1f} MB held, {bundle.mapped_bytes / 1e6:.1f} MB mapped"
    facts = (aliases or "no alias", state, f"revision {bundle.revision}", f"{bundle.item_count} items", size)
    return plain("  ".join((bundle.bundle_id, *facts, bundle.path)))
