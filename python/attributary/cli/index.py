"""`attributary index`: a bundle's vectors in Milvus."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attributary.bundle.bundle import Bundle
from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.index.golden import golden_recall
from attributary.index.milvus_plan import CHOICES

if TYPE_CHECKING:
    from attributary.index.base import VectorIndex
    from attributary.index.milvus_client import MilvusServer

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    ("--milvus-uri", "http://127.0.0.1:19530", str, "URL of a Milvus, or a .db file for milvus-lite"),
    ("--milvus-token", "", str, "user:password or API key"),
    ("--milvus-collection", "", str, "collection; default: attributary_<bundle id>"),
    ("--milvus-timeout-s", 10.0, float, "how long one call may take; then Milvus counts as away"),
)


def milvus_options(command: F) -> F:
    """Add the options of a connection to Milvus to a command."""
    for name, default, kind, text in reversed(_OPTIONS):
        command = click.option(
            name,
            type=kind,
            default=default,
            envvar="ATTRIBUTARY_" + name[2:].replace("-", "_").upper(),
            show_default=bool(default),
            show_envvar=True,
            help=text,
        )(command)
    return command


def connect(uri: str, token: str, timeout_s: float) -> MilvusServer:
    """Connect to Milvus; raises UnavailableError, also where pymilvus is not installed."""
    try:
        from attributary.index.milvus_client import MilvusServer
    except ImportError as error:
        raise UnavailableError(f"{error}; install attributary[milvus]") from None
    return MilvusServer(uri, token, timeout_s)


def opener(uri: str, token: str, collection: str, timeout_s: float) -> Callable[[Bundle], VectorIndex]:
    """Return what opens a bundle's index in Milvus, for `open_engine`."""

    def open_index(bundle: Bundle) -> VectorIndex:
        server = connect(uri, token, timeout_s)
        from attributary.index.milvus import MilvusIndex

        return MilvusIndex.open(bundle, server, collection)

    return open_index


@click.group("index")
def index_group() -> None:
    """Keep a bundle's index in Milvus, for corpora past one machine."""


@index_group.command("push")
@click.argument("bundle", type=click.Path(path_type=Path), envvar="ATTRIBUTARY_BUNDLE")
@milvus_options
@click.option(
    "--index-type",
    type=click.Choice(CHOICES),
    default="auto",
    show_default=True,
    help="auto: IVF_PQ with the bundle's parameters; gpu: GPU_IVF_PQ; flat: an exact scan",
)
@click.option("--shards", type=int, default=1, show_default=True, help="channels that writes are spread over")
@click.option("--replicas", type=int, default=1, show_default=True, help="copies in memory")
@click.option(
    "--segment-rows", type=int, default=None, help="rows of a sealed segment; default: Milvus's 1 GiB"
)
@click.option("--force", is_flag=True, help="replace what the collection holds")
def push_command(
    bundle: Path,
    milvus_uri: str,
    milvus_token: str,
    milvus_collection: str,
    milvus_timeout_s: float,
    **layout: Any,
) -> None:
    """Bring the vectors of the BUNDLE directory into a collection, index and load it; resumes where it was cut."""
    opened = Bundle.open(bundle)
    server = connect(milvus_uri, milvus_token, milvus_timeout_s)
    from attributary.index.milvus import MilvusIndex
    from attributary.index.milvus_push import PushOptions, push

    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    ) as bars:
        task = bars.add_task("push", total=len(opened.items))
        pushed = push(
            opened,
            server,
            PushOptions(milvus_collection, **layout),
            lambda done, total: bars.update(task, completed=done, total=total),
        )
    recall = golden_recall(MilvusIndex.open(opened, server, pushed.collection), opened)
    click.echo(
        f"collection {pushed.collection}: {pushed.rows} items, {pushed.sent} sent now, "
        f"{pushed.plan.index_type} {pushed.plan.build or ''}".rstrip()
    )
    click.echo(f"golden queries: {recall:.3f} of the expected items are found")
    if server.is_lite and layout["index_type"] != "flat":
        click.echo("milvus-lite has no IVF_PQ: the collection is scanned exactly", err=True)


@index_group.command("status")
@click.argument("bundle", type=click.Path(path_type=Path), envvar="ATTRIBUTARY_BUNDLE")
@milvus_options
def status_command(
    bundle: Path, milvus_uri: str, milvus_token: str, milvus_collection: str, milvus_timeout_s: float
) -> None:
    """Say what the collection holds and whether it can serve the BUNDLE directory; one JSON object."""
    opened = Bundle.open(bundle, verify=False)
    index = opener(milvus_uri, milvus_token, milvus_collection, milvus_timeout_s)(opened)
    from attributary.index.milvus import MilvusIndex, collection_of

    assert isinstance(index, MilvusIndex)
    bundle_id = opened.manifest.bundle_id
    status = {
        "collection": milvus_collection or collection_of(bundle_id),
        "bundle_id": bundle_id,
        "items": index.size,
        "plan": asdict(index.plan),
        "golden_recall": golden_recall(index, opened),
    }
    click.echo(json.dumps(status))


@index_group.command("drop")
@milvus_options
def drop_command(
    milvus_uri: str,
    milvus_token: str,
    milvus_collection: str,
    milvus_timeout_s: float,
) -> None:
    """Remove the collection that --milvus-collection names, if `index push` made it."""
    if not milvus_collection:
        raise InvalidArgumentError("milvus_collection", "must be named")
    server = connect(milvus_uri, milvus_token, milvus_timeout_s)
    from attributary.index.milvus_push import drop

    drop(server, milvus_collection)
    click.echo(f"dropped {milvus_collection}")
