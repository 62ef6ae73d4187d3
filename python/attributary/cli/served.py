"""`attributary bundle load|unload|alias|served`: which bundles a running server holds, and what leads to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import click

from attributary.client.admin import AdminClient, ServedBundle, Turned
from attributary.plain import json_line, plain

from .options import DEFAULT_ADDRESS, F, added, admin_options, json_option

Admin = Callable[[], AdminClient]


def _server(command: F) -> F:
    """The server that is asked."""
    return added(command, admin_options(DEFAULT_ADDRESS, "host:port of the server"), json_option())


def _turning(command: F) -> F:
    """Why, and for how long what was there before still answers."""
    why = click.option("--why", required=True, help="the reason, for the server's log")
    pinned = click.option(
        "--pinned-s",
        type=click.FloatRange(0, 86_400),
        default=None,
        help="how long the bundle before answers those who name its id; default: the server's own",
    )
    return why(pinned(command))


_BRING_BACK = click.option(
    "--bring-back",
    is_flag=True,
    help="what was deleted from the bundle before may come back; else it is deleted from this one too",
)


@click.command("load")
@click.argument("path")
@click.option("--alias", default="", help="turn this alias to it; without one it answers to its id only")
@_BRING_BACK
@_turning
@_server
def load_command(
    path: str, alias: str, bring_back: bool, why: str, pinned_s: float | None, as_json: bool, admin: Admin
) -> None:
    """Serve another bundle, PATH as the server sees it; returns when it has been verified and answers."""
    with admin() as client:
        _show(
            client.load_bundle(path, alias=alias, why=why, pinned_s=pinned_s, bring_back=bring_back), as_json
        )


@click.command("unload")
@click.argument("bundle")
@_turning
@_server
def unload_command(bundle: str, why: str, pinned_s: float | None, as_json: bool, admin: Admin) -> None:
    """Take BUNDLE, an alias or an id, out of service with its aliases."""
    with admin() as client:
        _show(client.unload_bundle(bundle, why=why, pinned_s=pinned_s), as_json)


@click.command("alias")
@click.argument("alias")
@click.argument("bundle")
@_BRING_BACK
@_turning
@_server
def alias_command(
    alias: str, bundle: str, bring_back: bool, why: str, pinned_s: float | None, as_json: bool, admin: Admin
) -> None:
    """Turn ALIAS to BUNDLE, an alias or an id that the server has."""
    with admin() as client:
        _show(client.set_alias(alias, bundle, why=why, pinned_s=pinned_s, bring_back=bring_back), as_json)


@click.command("served")
@_server
def served_command(as_json: bool, admin: Admin) -> None:
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
