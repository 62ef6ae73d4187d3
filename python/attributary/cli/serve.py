"""`attributary serve`: bundles behind gRPC."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from attributary.attribution.engine import Engine
from attributary.attribution.open import open_engine
from attributary.attribution.types import Limits
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError, needs
from attributary.gateway import config as gateway
from attributary.gateway.bundles import OpenBundle
from attributary.gateway.processes import Member, announce, serve_processes
from attributary.gateway.registry import DEFAULT_ALIAS, Opened, check_alias
from attributary.gateway.running import serve
from attributary.gateway.server import More

from .index import Milvus, milvus_options
from .options import PATH, F
from .variables import refuse_misspelt
from .waiting import said_if_slow

if TYPE_CHECKING:
    from attributary.triton.engine import TritonLink


def _gateway_options(command: F) -> F:
    for flag in reversed(list(gateway.flags())):
        name = flag.name.replace("_", "-")
        command = click.option(
            f"--{name}/--no-{name}" if flag.kind is bool else f"--{name}",
            flag.name,
            type=None if flag.kind is bool else flag.kind,
            default=flag.default,
            envvar=flag.variable,
            show_default=flag.default is not None,
            show_envvar=True,
            help=flag.help,
        )(command)
    return command


def _limit_options(command: F) -> F:
    for entry in reversed(fields(Limits)):
        command = click.option(
            "--" + entry.name.replace("_", "-"),
            entry.name,
            type=click.IntRange(min=1),
            default=entry.default,
            envvar=gateway.ENVIRONMENT_PREFIX + entry.name.upper(),
            show_default=True,
            show_envvar=True,
            help="limit on a query: " + entry.name.removeprefix("max_").replace("_", " "),
        )(command)
    return command


@click.command("serve")
@click.argument("bundles", nargs=-1, required=True, type=PATH, envvar="ATTRIBUTARY_BUNDLE")
@click.option(
    "--default",
    "default_alias",
    default=None,
    envvar="ATTRIBUTARY_DEFAULT",
    show_envvar=True,
    help="alias of the bundle for requests that name none; default: the first",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    envvar="ATTRIBUTARY_PRECISION",
    show_default=True,
    show_envvar=True,
    help="which of the bundle's encoders to run",
)
@click.option(
    "--encoder-threads",
    type=click.IntRange(min=1),
    default=1,
    envvar="ATTRIBUTARY_ENCODER_THREADS",
    show_default=True,
    show_envvar=True,
    help="cores that one encoder call uses",
)
@click.option(
    "--engine",
    "kind",
    type=click.Choice(["embedded", "triton"]),
    default="embedded",
    envvar="ATTRIBUTARY_ENGINE",
    show_default=True,
    show_envvar=True,
    help="where encoder and index run: in this process, or in an NVIDIA Triton",
)
@click.option(
    "--triton-url",
    "triton_urls",
    default=("127.0.0.1:8001",),
    multiple=True,
    envvar="ATTRIBUTARY_TRITON_URL",
    show_default=True,
    show_envvar=True,
    help="host:port of Triton's gRPC service, or dns:///name:port for every address of a name; several, by repeating "
    "it, are asked in turn",
)
@click.option(
    "--triton-shared-memory",
    "shared_memory",
    type=click.Choice(["auto", "off"]),
    default="auto",
    envvar="ATTRIBUTARY_TRITON_SHARED_MEMORY",
    show_default=True,
    show_envvar=True,
    help="pictures to a Triton on this machine: through shared memory where it takes that, or always sent",
)
@click.option(
    "--index",
    type=click.Choice(["faiss", "milvus"]),
    default="faiss",
    envvar="ATTRIBUTARY_INDEX",
    show_default=True,
    show_envvar=True,
    help="where the embedded engine finds candidates: in this process, or in a Milvus",
)
@milvus_options
@_gateway_options
@_limit_options
def serve_command(
    bundles: tuple[Path, ...],
    default_alias: str | None,
    precision: str,
    encoder_threads: int,
    kind: str,
    triton_urls: tuple[str, ...],
    shared_memory: Literal["auto", "off"],
    index: str,
    milvus: Milvus,
    **settings: Any,
) -> None:
    """Serve BUNDLES, directories, until SIGTERM; one JSON line on standard output says when they are ready.

    One directory, or several as ALIAS=DIRECTORY: requests name an alias or a bundle's id. With `--engine triton` they
    are read for items, tokenizer and golden queries only; Triton has the rest. With `--index milvus` candidates come
    from the collection that `attributary index push` filled.
    """
    refuse_misspelt(serve_command, os.environ)
    places = _by_alias(bundles)
    default = default_alias or next(iter(places))
    if default not in places:
        raise InvalidArgumentError("default", f"must be one of {', '.join(places)}, got {default!r}")
    limits = Limits(**{entry.name: settings.pop(entry.name) for entry in fields(Limits)})
    config = gateway.GatewayConfig(**settings)
    if kind == "triton" and index == "milvus":
        raise InvalidArgumentError("index", "milvus needs --engine embedded; Triton has an index of its own")
    chosen = _Chosen(
        places=places,
        default=default,
        limits=limits,
        precision=cast(Literal["fp32", "int8"], precision),
        encoder_threads=encoder_threads,
        triton_urls=triton_urls if kind == "triton" else (),
        shared_memory=shared_memory,
        milvus=milvus if index == "milvus" else None,
    )
    sys.exit(chosen(config) if config.processes == 1 else serve_processes(config, chosen))


@dataclass(frozen=True)
class _Chosen:
    """What the command line asks to serve: called in the process that serves it, which may be one of several."""

    places: dict[str, Path]  # by alias
    default: str  # alias
    limits: Limits
    precision: Literal["fp32", "int8"]
    encoder_threads: int
    triton_urls: tuple[str, ...]  # none: the engine is embedded
    shared_memory: Literal["auto", "off"]
    milvus: Milvus | None  # None: FAISS in this process

    def __call__(
        self,
        config: gateway.GatewayConfig,
        member: Member | None = None,
        ready: Callable[[dict[str, Any]], None] = announce,
    ) -> int:
        """Open the bundles and serve them until SIGTERM; return the exit status."""
        link = None
        if self.triton_urls:
            with needs("triton"):
                from attributary.triton.engine import TritonLink
            link = TritonLink(self.triton_urls, self.limits, self.shared_memory)
            open_bundle = _triton_opener(link)
        else:
            open_engine_ = partial(
                open_engine,
                limits=self.limits,
                encoder_threads=self.encoder_threads,
                precision=self.precision,
                open_index=None if self.milvus is None else self.milvus.open_index,
            )
            open_bundle = _embedded_opener(open_engine_, config)
        # A directory under two aliases is opened once: it has one writer.
        once = {place.resolve(): place for place in self.places.values()}
        engines = {}
        for key, place in once.items():
            with said_if_slow(f"opening {place}: its hashes and golden queries are checked"):
                engines[key] = open_bundle(place)
        opened = {alias: engines[place.resolve()] for alias, place in self.places.items()}
        first = opened.pop(self.default)
        more: More = {"alias": self.default, "others": opened, "open_bundle": open_bundle}
        more |= {"member": member, "ready": ready}
        return serve(first.engine, config, link, first.store, **more)


def _by_alias(bundles: tuple[Path, ...]) -> dict[str, Path]:
    """Directories by alias; one alone needs none."""
    if len(bundles) == 1 and (bundles[0].is_dir() or "=" not in str(bundles[0])):
        return {DEFAULT_ALIAS: bundles[0]}
    places: dict[str, Path] = {}
    for given in bundles:
        alias, equals, place = str(given).partition("=")
        if not equals:
            raise InvalidArgumentError("bundles", f"of several each must be ALIAS=DIRECTORY, got {given}")
        check_alias(alias)
        if alias in places:
            raise InvalidArgumentError("bundles", f"{alias} is given twice")
        places[alias] = Path(place)
    return places


def _embedded_opener(open_engine_: Callable[[Path], Engine], config: gateway.GatewayConfig) -> OpenBundle:
    def open_bundle(place: Path) -> Opened:
        if config.admin_tokens_file is None or not config.writer:
            return Opened(open_engine_(place))
        store = Store(place, open_engine_, max_added=config.max_added_items)
        assert store.engine is not None
        return Opened(store.engine, store)

    return open_bundle


def _triton_opener(link: TritonLink) -> OpenBundle:
    return lambda place: Opened(link.open(place))
