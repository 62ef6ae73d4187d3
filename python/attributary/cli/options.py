"""What a verb's function takes is what the verb takes: each parameter is an argument or an option of the command line.

A parameter is annotated with its help, or with an `Option` where name and type do not say the rest; its default is the
option's. Options that several verbs have are the parameters of a function of their own, named by `From`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial, wraps
from inspect import Parameter, signature
from operator import itemgetter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from attributary.attribution.types import Filter
from attributary.client.admin import AdminClient
from attributary.client.channel import Tls
from attributary.client.sync import Client
from attributary.errors import InvalidArgumentError

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
AT_LEAST_1 = click.IntRange(min=1)
_ADDRESS = "127.0.0.1:50051"
_CLIENT = "ATTRIBUTARY_CLIENT_"


@dataclass(frozen=True, slots=True)
class Option:
    """An option; `flag` and `kind` (click's type) are by default those of the parameter's own name and type."""

    help: str = ""
    flag: str = ""
    kind: Any = None
    # A variable beside the verb's own: ATTRIBUTARY_<FLAG>, or one that help does not name.
    env: bool | str = False
    metavar: str | None = None


@dataclass(frozen=True, slots=True)
class Argument:
    """A word by its place; it may be left out if its parameter has a default."""

    env: str = ""


@dataclass(frozen=True, slots=True)
class From:
    """A parameter that `build` makes of options: its own parameters, or those of them that `told` has words for."""

    build: Callable[..., Any]
    told: Mapping[str, str | Option] | None = None


def declared(command: F) -> F:
    """Give a command the arguments and options that its parameters are."""
    parameters, call = _read(command)

    @wraps(command)
    def called(**given: Any) -> Any:
        return call(given)

    # Where click's own decorators note them, the last one first.
    called.__click_params__ = parameters[::-1]  # type: ignore[attr-defined]
    return called  # type: ignore[return-value]


def _read(
    build: Callable[..., Any], told: Mapping[str, str | Option] | None = None
) -> tuple[list[click.Parameter], Callable[[Mapping[str, Any]], Any]]:
    """The parameters of a function or a dataclass as click's, and how it is called with what click reads."""
    parameters: list[click.Parameter] = []
    parts: dict[str, Callable[[Mapping[str, Any]], Any]] = {}
    hints = get_type_hints(build, include_extras=True)
    for name, entry in signature(build).parameters.items():
        if told is not None and name not in told:
            continue
        kind: Any = hints[name]
        said: Any = From(kind) if isinstance(kind, type) and is_dataclass(kind) else None
        if get_origin(kind) is Annotated:
            kind, said = get_args(kind)
        if told is not None:
            said = told[name]
        if isinstance(said, From):
            inner, parts[name] = _read(said.build, said.told)
            parameters += inner
        else:
            parameters.append(_parameter(name, entry.default, kind, said))
            parts[name] = itemgetter(name)
    return parameters, lambda given: build(**{name: part(given) for name, part in parts.items()})


def _parameter(name: str, default: Any, hint: Any, said: str | Option | Argument) -> click.Parameter:
    if get_origin(hint) in (Union, UnionType):
        [hint] = [kind for kind in get_args(hint) if kind is not type(None)]
    several, required = get_origin(hint) is tuple, default is Parameter.empty
    if several:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        kind: Any = click.Choice(get_args(hint))
    else:
        kind = PATH if hint is Path else hint
    if isinstance(said, Argument):
        count = -1 if several else 1
        return click.Argument([name], type=kind, nargs=count, required=required, envvar=said.env or None)
    option = Option(said) if isinstance(said, str) else said
    flag = option.flag or "--" + name.replace("_", "-")
    # What it is without a word of the caller's is told where there is something to tell.
    shown = not required and default is not None and default is not False and default not in ("", ())
    more: dict[str, Any] = {} if required or default is None else {"default": default}
    if hint is bool:
        more |= {"is_flag": True}
    else:
        more |= {"type": option.kind or kind, "multiple": several, "metavar": option.metavar}
    if option.env is True:
        more |= {"envvar": flag.partition("/")[0].replace("--", "attributary-").replace("-", "_").upper()}
    elif option.env:
        more |= {"envvar": option.env}
    return click.Option(
        [*flag.split(), name],
        required=required,
        show_default=shown,
        show_envvar=option.env is True,
        help=option.help or None,
        **more,
    )


Json: TypeAlias = Annotated[bool, Option("print JSON", "--json")]
Who: TypeAlias = Annotated[str | None, "who changes it; default: your user name. A server knows its token's"]


def _filter(
    include_creator: Annotated[tuple[str, ...], "search only this creator's items; repeatable"] = (),
    exclude_creator: Annotated[tuple[str, ...], "leave this creator's items out; repeatable"] = (),
    include_licence: Annotated[tuple[str, ...], "search only items under this licence; repeatable"] = (),
    exclude_licence: Annotated[tuple[str, ...], "leave items under this licence out; repeatable"] = (),
) -> Filter:
    return Filter(include_creator, exclude_creator, include_licence, exclude_licence)


def _tls(
    use_tls: Annotated[bool, Option("TLS with the authorities of this system", "--tls")] = False,
    tls_ca: Annotated[
        Path | None,
        Option("PEM file of the authority that signed the server; turns TLS on", env=_CLIENT + "TLS_CA"),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        Option("PEM file of your certificate, where the server asks for one", env=_CLIENT + "TLS_CERT"),
    ] = None,
    tls_key: Annotated[
        Path | None, Option("PEM file of the key of --tls-cert", env=_CLIENT + "TLS_KEY")
    ] = None,
) -> Tls | None:
    if (tls_cert is None) != (tls_key is None):
        raise InvalidArgumentError("tls_cert", "--tls-cert and --tls-key must be given together")
    if not use_tls and tls_ca is None and tls_cert is None:
        return None
    return Tls(ca=tls_ca, cert=tls_cert, key=tls_key)


Wanted: TypeAlias = Annotated[Filter, From(_filter)]
ClientTls: TypeAlias = Annotated[Tls | None, From(_tls)]


def _server(
    *,
    address: Annotated[str, "host:port of the server"] = _ADDRESS,
    timeout_s: Annotated[float, Option("seconds", "--timeout")] = 10.0,
    token: Annotated[str | None, "bearer token"] = None,
    tls: ClientTls,
) -> Callable[[], Client]:
    return partial(Client, address, tls=tls, token=token, timeout_s=timeout_s)


AdminToken: TypeAlias = Annotated[str, Option("admin token of that server", env="ATTRIBUTARY_ADMIN_TOKEN")]


def admin(
    *,
    address: Annotated[str, "host:port of the server"] = _ADDRESS,
    token: AdminToken = "",
    tls: ClientTls,
) -> Callable[[], AdminClient]:
    """Return what connects to the admin service of a server."""

    def connect() -> AdminClient:
        if not token:
            raise InvalidArgumentError("token", "--token or ATTRIBUTARY_ADMIN_TOKEN must be given")
        return AdminClient(address, token=token, tls=tls)

    return connect


Server: TypeAlias = Annotated[Callable[[], Client], From(_server)]
Admin: TypeAlias = Annotated[Callable[[], AdminClient], From(admin)]
