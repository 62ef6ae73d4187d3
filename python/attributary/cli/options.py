"""Options that several verbs have, each declared once: paths, filters, and how a server is reached."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from attributary.attribution.types import Filter
from attributary.client.admin import AdminClient
from attributary.client.channel import Tls
from attributary.client.sync import Client
from attributary.errors import InvalidArgumentError

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
DEFAULT_ADDRESS = "127.0.0.1:50051"


def added(command: F, *options: Callable[[Any], Any]) -> F:
    """Give a command options, in the order in which its help is to show them."""
    decorated: Any = command
    for option in reversed(options):
        decorated = option(decorated)
    result: F = decorated
    return result


def json_option(help: str = "print JSON") -> Callable[[F], F]:
    """Add --json; the command gets it as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def who_option(command: F) -> F:
    """Add --who."""
    text = "who changes it; default: your user name. A server knows its token's"
    return click.option("--who", default=None, help=text)(command)


def filter_options(command: F) -> F:
    """Add the four options of a filter; the command gets it as `wanted`."""
    names = ("include_creator", "exclude_creator", "include_licence", "exclude_licence")

    @wraps(command)
    def filtered(*given: Any, **rest: Any) -> Any:
        return command(*given, wanted=Filter(*(rest.pop(name) for name in names)), **rest)

    return added(
        filtered,
        click.option("--include-creator", multiple=True, help="search only this creator's items; repeatable"),
        click.option("--exclude-creator", multiple=True, help="leave this creator's items out; repeatable"),
        click.option(
            "--include-licence", multiple=True, help="search only items under this licence; repeatable"
        ),
        click.option(
            "--exclude-licence", multiple=True, help="leave items under this licence out; repeatable"
        ),
    )  # type: ignore[return-value]  # the same command, called with what click reads


def tls_options(command: F) -> F:
    """Add --tls, --tls-ca, --tls-cert and --tls-key; the command gets them as `tls`, None where TLS is off."""

    @wraps(command)
    def connected(
        *given: Any,
        use_tls: bool,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        **rest: Any,
    ) -> Any:
        return command(*given, tls=_tls(use_tls, tls_ca, tls_cert, tls_key), **rest)

    def file(name: str, help: str) -> Callable[[Any], Any]:
        variable = "ATTRIBUTARY_CLIENT_" + name[2:].replace("-", "_").upper()
        return click.option(name, type=PATH, envvar=variable, help=help)

    return added(
        connected,
        click.option("--tls", "use_tls", is_flag=True, help="TLS with the authorities of this system"),
        file("--tls-ca", "PEM file of the authority that signed the server; turns TLS on"),
        file("--tls-cert", "PEM file of your certificate, where the server asks for one"),
        file("--tls-key", "PEM file of the key of --tls-cert"),
    )  # type: ignore[return-value]


def server_options(command: F) -> F:
    """Add a server's address, --timeout, --token and TLS; the command gets `server`, which makes a client."""

    @wraps(command)
    def connected(
        *given: Any, address: str, tls: Tls | None, token: str, timeout_s: float, **rest: Any
    ) -> Any:
        server = partial(Client, address, tls=tls, token=token, timeout_s=timeout_s)
        return command(*given, server=server, **rest)

    return added(
        connected,
        click.option("--address", default=DEFAULT_ADDRESS, show_default=True, help="host:port of the server"),
        click.option("--timeout", "timeout_s", type=float, default=10.0, show_default=True, help="seconds"),
        click.option("--token", default=None, help="bearer token"),
        tls_options,
    )  # type: ignore[return-value]


def admin_options(address: str, help: str) -> Callable[[F], F]:
    """Add a server's address, its admin token and TLS; the command gets `admin`, which makes a client.

    It is None where no address was given and none is the default.
    """

    def decorate(command: F) -> F:
        @wraps(command)
        def connected(*given: Any, address: str, token: str, tls: Tls | None, **rest: Any) -> Any:
            admin = partial(_admin, address, token, tls) if address else None
            return command(*given, admin=admin, **rest)

        return added(
            connected,
            click.option("--address", default=address, show_default=bool(address), help=help),
            click.option(
                "--token", default="", envvar="ATTRIBUTARY_ADMIN_TOKEN", help="admin token of that server"
            ),
            tls_options,
        )  # type: ignore[return-value]

    return decorate


def _admin(address: str, token: str, tls: Tls | None) -> AdminClient:
    if not token:
        raise InvalidArgumentError("token", "--token or ATTRIBUTARY_ADMIN_TOKEN must be given")
    return AdminClient(address, token=token, tls=tls)


def _tls(use: bool, ca: Path | None, cert: Path | None, key: Path | None) -> Tls | None:
    if (cert is None) != (key is None):
        raise InvalidArgumentError("tls_cert", "--tls-cert and --tls-key must be given together")
    if not use and ca is None and cert is None:
        return None
    return Tls(ca=ca, cert=cert, key=key)
