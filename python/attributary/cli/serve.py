"""`attributary serve`: one bundle behind gRPC."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

from attributary.attribution.open import open_engine
from attributary.attribution.types import Limits
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.gateway import config as gateway
from attributary.gateway.server import serve

from .index import milvus_options, opener

if TYPE_CHECKING:
    from attributary.triton.engine import TritonLink

F = TypeVar("F", bound=Callable[..., Any])


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
@click.argument("bundle", type=click.Path(path_type=Path), envvar="ATTRIBUTARY_BUNDLE")
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
    default="127.0.0.1:8001",
    envvar="ATTRIBUTARY_TRITON_URL",
    show_default=True,
    show_envvar=True,
    help="host:port of Triton's gRPC service",
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
    bundle: Path,
    precision: str,
    encoder_threads: int,
    kind: str,
    triton_url: str,
    shared_memory: Literal["auto", "off"],
    index: str,
    milvus_uri: str,
    milvus_token: str,
    milvus_collection: str,
    milvus_timeout_s: float,
    **settings: Any,
) -> None:
    """Serve the BUNDLE directory until SIGTERM; one JSON line on standard output says when it is ready.

    With `--engine triton` the BUNDLE is read for its items, tokenizer and golden queries only; Triton has the rest.
    With `--index milvus` candidates come from the collection that `attributary index push` filled.
    """
    limits = Limits(**{entry.name: settings.pop(entry.name) for entry in fields(Limits)})
    settings_of_gateway = gateway.GatewayConfig(**settings)
    if kind == "triton":
        if index == "milvus":
            raise InvalidArgumentError(
                "index", "milvus needs --engine embedded; Triton has an index of its own"
            )
        link = _triton_link(triton_url, limits, shared_memory)
        sys.exit(serve(link.open(bundle), settings_of_gateway, link))
    open_bundle = partial(
        open_engine,
        limits=limits,
        encoder_threads=encoder_threads,
        precision=cast(Literal["fp32", "int8"], precision),
        open_index=opener(milvus_uri, milvus_token, milvus_collection, milvus_timeout_s)
        if index == "milvus"
        else None,
    )
    if settings_of_gateway.admin_tokens_file is None:
        sys.exit(serve(open_bundle(bundle), settings_of_gateway, reopen=open_bundle))
    store = Store(bundle, open_bundle, max_added=settings_of_gateway.max_added_items)
    assert store.engine is not None
    sys.exit(serve(store.engine, settings_of_gateway, store=store))


def _triton_link(url: str, limits: Limits, shared_memory: Literal["auto", "off"]) -> TritonLink:
    try:
        from attributary.triton.engine import TritonLink
    except ImportError as error:
        raise UnavailableError(f"{error}; install attributary[triton]") from None
    return TritonLink(url, limits, shared_memory)
