"""How every verb that asks a server connects: TLS, one-sided or mutual."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from attributary.client.channel import Tls
from attributary.errors import InvalidArgumentError

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)


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

    decorated: Any = connected
    for decorate in (
        click.option(
            "--tls-key",
            type=_FILE,
            envvar="ATTRIBUTARY_CLIENT_TLS_KEY",
            help="PEM file of the key of --tls-cert",
        ),
        click.option(
            "--tls-cert",
            type=_FILE,
            envvar="ATTRIBUTARY_CLIENT_TLS_CERT",
            help="PEM file of your certificate, where the server asks for one",
        ),
        click.option(
            "--tls-ca",
            type=_FILE,
            envvar="ATTRIBUTARY_CLIENT_TLS_CA",
            help="PEM file of the authority that signed the server; turns TLS on",
        ),
        click.option("--tls", "use_tls", is_flag=True, help="TLS with the authorities of this system"),
    ):
        decorated = decorate(decorated)
    result: F = decorated
    return result


def _tls(use: bool, ca: Path | None, cert: Path | None, key: Path | None) -> Tls | None:
    if (cert is None) != (key is None):
        raise InvalidArgumentError("tls_cert", "--tls-cert and --tls-key must be given together")
    if not use and ca is None and cert is None:
        return None
    return Tls(ca=ca, cert=cert, key=key)
