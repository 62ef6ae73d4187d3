"""Where the bundle is that a command changes or reads: in a directory, or at the server that has it open."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from attributary.client.admin import AdminClient
from attributary.client.channel import Tls
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError

from .connection import tls_options


@dataclass(frozen=True, slots=True)
class Where:
    """A directory, or a server's `address` with the alias or id of one of its bundles."""

    directory: Path | None
    address: str
    token: str
    tls: Tls | None
    alias: str  # empty: the server's default

    @property
    def here(self) -> Path:
        """The directory; raises InvalidArgumentError without one."""
        if self.directory is None:
            raise InvalidArgumentError("bundle", "a bundle's directory or --address must be given")
        return self.directory

    def store(self) -> Store:
        """Open the directory for changes."""
        return Store(self.here)

    def server(self) -> AdminClient:
        """The client of the server."""
        if self.directory is not None:
            raise InvalidArgumentError(
                "bundle", "a directory and --address exclude each other: the server has its own"
            )
        if not self.token:
            raise InvalidArgumentError(
                "token", "--token or ATTRIBUTARY_ADMIN_TOKEN must be given with --address"
            )
        return AdminClient(self.address, token=self.token, tls=self.tls)


def where_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its `where` and `as_json`."""

    @wraps(command)
    def located(
        bundle: Path | None, address: str, token: str, tls: Tls | None, alias: str, **given: Any
    ) -> None:
        command(where=Where(bundle, address, token, tls, alias), **given)

    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="print JSON, one object a line"),
        tls_options,
        click.option(
            "--token", default="", envvar="ATTRIBUTARY_ADMIN_TOKEN", help="admin token of that server"
        ),
        click.option(
            "--alias", default="", help="alias or id of the bundle at --address; default: the server's"
        ),
        click.option("--address", default="", help="host:port of the server that serves the bundle"),
        click.argument("bundle", type=click.Path(path_type=Path), required=False),
    ):
        located = decorate(located)
    return located


def user(who: str | None) -> str:
    """Who changes a bundle, for its audit."""
    if who:
        return who
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise InvalidArgumentError("who", "must be given: this user has no name") from None
