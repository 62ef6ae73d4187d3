"""`attributary serve`: bundles behind gRPC."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import click

from attributary.attribution.engine import Engine
from attributary.attribution.open import open_engine
from attributary.attribution.types import Limits
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError, needs
from attributary.gateway import config as gateway
from attributary.gateway.opened import OpenBundle, Opened
from attributary.plain import plain

from .index import AtMilvus
from .options import AT_LEAST_1, Argument, From, Option, declared

if TYPE_CHECKING:
    from attributary.gateway.processes import Member
    from attributary.gateway.server import More
    from attributary.triton.engine import TritonLink


Precision = Literal["fp32", "int8"]
SharedMemory = Literal["auto", "off"]
# Of other commands and of the kernels: near to a setting's name, and meant.
_OTHERS = frozenset({"ADMIN_TOKEN", "TOKEN", "ADDRESS", "KERNELS"})
_PATIENCE_S = 2.0
_LIMITS = {
    entry.name: Option(
        "limit on a query: " + entry.name.removeprefix("max_").replace("_", " "),
        kind=AT_LEAST_1,
        env=True,
    )
    for entry in fields(Limits)
}
_GATEWAY = {
    name: Option(help_, "--{0}/--no-{0}".format(name.replace("_", "-")) if kind is bool else "", env=True)
    for name, hint in get_type_hints(gateway.GatewayConfig, include_extras=True).items()
    for kind, help_ in [get_args(hint)]
}


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """What the command line asks to serve: called in the process that serves it, which may be one of several."""

    bundles: Annotated[tuple[Path, ...], Argument(env="ATTRIBUTARY_BUNDLE")]
    default_alias: Annotated[
        str | None,
        Option("alias of the bundle for requests that name none; default: the first", "--default", env=True),
    ] = None
    precision: Annotated[Precision, Option("which of the bundle's encoders to run", env=True)] = "fp32"
    encoder_threads: Annotated[int, Option("cores that one encoder call uses", kind=AT_LEAST_1, env=True)] = 1
    kind: Annotated[
        Literal["embedded", "triton"],
        Option("where encoder and index run: in this process, or in an NVIDIA Triton", "--engine", env=True),
    ] = "embedded"
    triton_urls: Annotated[
        tuple[str, ...],
        Option(
            "host:port of Triton's gRPC service, or dns:///name:port for every address of a name; several, by "
            "repeating it, are asked in turn",
            "--triton-url",
            env=True,
        ),
    ] = ("127.0.0.1:8001",)
    shared_memory: Annotated[
        SharedMemory,
        Option(
            "pictures to a Triton on this machine: through shared memory where it takes that, or always sent",
            "--triton-shared-memory",
            env=True,
        ),
    ] = "auto"
    index: Annotated[
        Literal["faiss", "milvus"],
        Option("where the embedded engine finds candidates: in this process, or in a Milvus", env=True),
    ] = "faiss"
    milvus: AtMilvus
    limits: Annotated[Limits, From(Limits, _LIMITS)]

    def __call__(
        self,
        config: gateway.GatewayConfig,
        member: Member | None = None,
        ready: Callable[[dict[str, Any]], None] | None = None,
    ) -> int:
        """Open the bundles and serve them until SIGTERM; return the exit status."""
        # Of a start half is imports and half is ONNX Runtime, which loads a graph without the interpreter's lock.
        with ThreadPoolExecutor(1, "imports") as beside:
            running = beside.submit(importlib.import_module, "attributary.gateway.running")
            link, default, opened, open_bundle = self._open(config)
        first = opened.pop(default)
        more: More = {"alias": default, "others": opened, "open_bundle": open_bundle, "member": member}
        if ready is not None:
            more["ready"] = ready
        return int(running.result().serve(first.engine, config, link, first.store, **more))

    def _open(
        self, config: gateway.GatewayConfig
    ) -> tuple[TritonLink | None, str, dict[str, Opened], OpenBundle]:
        link, places = None, _by_alias(self.bundles)
        if self.kind == "triton":
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
                open_index=self.milvus.open_index if self.index == "milvus" else None,
            )
            open_bundle = _embedded_opener(open_engine_, config)
        # A directory under two aliases is opened once: it has one writer.
        once = {place.resolve(): place for place in places.values()}
        engines = {}
        for key, place in once.items():
            with said_if_slow(f"opening {place}: its hashes and golden queries are checked"):
                engines[key] = open_bundle(place)
        opened = {alias: engines[place.resolve()] for alias, place in places.items()}
        return link, self.default_alias or next(iter(places)), opened, open_bundle


@click.command("serve")
@declared
def serve_command(
    chosen: Annotated[_Chosen, From(_Chosen)],
    config: Annotated[gateway.GatewayConfig, From(gateway.GatewayConfig, _GATEWAY)],
) -> None:
    """Serve BUNDLES, directories, until SIGTERM; one JSON line on standard output says when they are ready.

    One directory, or several as ALIAS=DIRECTORY: requests name an alias or a bundle's id. With `--engine triton` they
    are read for items, tokenizer and golden queries only; Triton has the rest. With `--index milvus` candidates come
    from the collection that `attributary index push` filled.
    """
    refuse_misspelt(serve_command, os.environ)
    places = _by_alias(chosen.bundles)
    if chosen.default_alias not in (None, *places):
        raise InvalidArgumentError(
            "default", f"must be one of {', '.join(places)}, got {chosen.default_alias!r}"
        )
    if chosen.kind == "triton" and chosen.index == "milvus":
        raise InvalidArgumentError("index", "milvus needs --engine embedded; Triton has an index of its own")
    if config.processes == 1:
        sys.exit(chosen(config))
    from attributary.gateway.processes import serve_processes

    sys.exit(serve_processes(config, chosen))


@click.command("ui", context_settings={"ignore_unknown_options": True})
@click.argument("bundles", nargs=-1, required=True)
@click.option(
    "--http-port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="of the page"
)
@click.pass_context
def ui_command(ctx: click.Context, bundles: tuple[str, ...], http_port: int) -> None:
    """Serve BUNDLES with a page to look at: drop a picture on it, see its sources. Ctrl-C ends it.

    Takes what `attributary serve` takes; gRPC listens on a free port, and there is no page for Prometheus. Needs
    attributary[ui].
    """
    click.echo(
        f"the page will be at http://127.0.0.1:{http_port} once the bundle has been verified", err=True
    )
    own = f"--ui --http-port {http_port} --port 0 --metrics-port -1 --log-format console".split()
    with serve_command.make_context("serve", [*own, *bundles], parent=ctx.parent) as inner:
        serve_command.invoke(inner)


def _by_alias(bundles: tuple[Path, ...]) -> dict[str, Path]:
    """Directories by alias; one alone needs none."""
    if len(bundles) == 1 and (bundles[0].is_dir() or "=" not in str(bundles[0])):
        return {gateway.DEFAULT_ALIAS: bundles[0]}
    places: dict[str, Path] = {}
    for given in bundles:
        alias, equals, place = str(given).partition("=")
        if not equals:
            raise InvalidArgumentError("bundles", f"of several each must be ALIAS=DIRECTORY, got {given}")
        gateway.check_alias(alias)
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


def refuse_misspelt(command: click.Command, environment: Mapping[str, str]) -> None:
    """Raise InvalidArgumentError for a variable that is nearly one of a command's: a token file that is not read
    leaves a server open.

    Others are left alone: an environment serves several commands, and Kubernetes adds its own.
    """
    known = {name for parameter in command.params for name in _variables(command, parameter)}
    for variable in sorted(environment):
        name = variable.removeprefix(gateway.ENVIRONMENT_PREFIX)
        if name == variable or name in known or name in _OTHERS:
            continue
        if near := get_close_matches(name, sorted(known), 1, 0.85):
            raise InvalidArgumentError(
                variable, f"is no setting; there is {gateway.ENVIRONMENT_PREFIX}{near[0]}"
            )


def _variables(command: click.Command, parameter: click.Parameter) -> list[str]:
    given = parameter.envvar
    names = [given] if isinstance(given, str) else list(given or ())
    own = f"{command.name}_{parameter.name}".upper()
    return [*(name.removeprefix(gateway.ENVIRONMENT_PREFIX) for name in names), own]


@contextmanager
def said_if_slow(what: str, after_s: float = _PATIENCE_S) -> Iterator[None]:
    """Say on standard error what is being waited for, if it takes long and somebody is looking."""
    if not sys.stderr.isatty():
        yield
        return
    slow = threading.Event()

    def say() -> None:
        slow.set()
        click.echo(f"{plain(what)} ...", err=True)

    timer = threading.Timer(after_s, say)
    timer.daemon = True
    begun = monotonic()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if slow.is_set():
        click.echo(f"done in {monotonic() - begun:.0f} s", err=True)
