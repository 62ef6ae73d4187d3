"""`attributary bundle load|unload|alias|served`: which bundles a running server holds, and what leads to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import click

from attributary.client.admin import AdminClient, ServedBundle, Turned
from attributary.client.channel import Tls
from attributary.errors import InvalidArgumentError
from attributary.plain import json_line, plain

from .connection import tls_options

F = TypeVar("F", bound=Callable[..., Any])


def _server(command: F) -> F:
    """The server that is asked."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="print JSON"),
        tls_options,
        click.option(
            "--token", default="", envvar="ATTRIBUTARY_ADMIN_TOKEN", help="admin token of that server"
        ),
        click.option(
            "--address", default="127.0.0.1:50051", show_default=True, help="host:port of the server"
        ),
    ):
        command = decorate(command)
    return command


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


@click.command("load")
@click.argument("path")
@click.option("--alias", default="", help="turn this alias to it; without one it answers to its id only")
@_turning
@_server
def load_command(
    path: str, alias: str, why: str, pinned_s: float | None, as_json: bool, **where: Any
) -> None:
    """Serve another bundle, PATH as the server sees it; returns when it has been verified and answers."""
    with _admin(**where) as client:
        _show(client.load_bundle(path, alias=alias, why=why, pinned_s=pinned_s), as_json)


@click.command("unload")
@click.argument("bundle")
@_turning
@_server
def unload_command(bundle: str, why: str, pinned_s: float | None, as_json: bool, **where: Any) -> None:
    """Take BUNDLE, an alias or an id, out of service with its aliases."""
    with _admin(**where) as client:
        _show(client.unload_bundle(bundle, why=why, pinned_s=pinned_s), as_json)


@click.command("alias")
@click.argument("alias")
@click.argument("bundle")
@_turning
@_server
def alias_command(
    alias: str, bundle: str, why: str, pinned_s: float | None, as_json: bool, **where: Any
) -> None:
    """Turn ALIAS to BUNDLE, an alias or an id that the server has."""
    with _admin(**where) as client:
        _show(client.set_alias(alias, bundle, why=why, pinned_s=pinned_s), as_json)


@click.command("served")
@_server
def served_command(as_json: bool, **where: Any) -> None:
    """List the bundles that a server holds, with their memory."""
    with _admin(**where) as client:
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


def _admin(address: str, token: str, tls: Tls | None) -> AdminClient:
    if not token:
        raise InvalidArgumentError("token", "--token or ATTRIBUTARY_ADMIN_TOKEN must be given")
    return AdminClient(address, token=token, tls=tls)
