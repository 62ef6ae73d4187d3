"""`attributary index`: a bundle's vectors in Milvus."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attributary.bundle.bundle import Bundle
from attributary.errors import InvalidArgumentError, needs
from attributary.index.golden import golden_recall
from attributary.index.milvus_plan import CHOICES

from .options import PATH, F, added

if TYPE_CHECKING:
    from attributary.index.milvus import MilvusIndex
    from attributary.index.milvus_client import MilvusServer


_OPTIONS = (
    ("--milvus-uri", "http://127.0.0.1:19530", str, "URL of a Milvus, or a .db file for milvus-lite"),
    ("--milvus-token", "", str, "user:password or API key"),
    ("--milvus-collection", "", str, "collection; default: attributary_<bundle id>"),
    ("--milvus-timeout-s", 10.0, float, "how long one call may take; then Milvus counts as away"),
)


@dataclass(frozen=True, slots=True)
class Milvus:
    """Where a Milvus is, and a collection in it."""

    uri: str
    token: str
    collection: str
    timeout_s: float

    def connect(self) -> MilvusServer:
        """Connect; raises UnavailableError, also where pymilvus is not installed."""
        with needs("milvus"):
            from attributary.index.milvus_client import MilvusServer

        return MilvusServer(self.uri, self.token, self.timeout_s)

    def open_index(self, bundle: Bundle) -> MilvusIndex:
        """Open a bundle's index there, for `open_engine`."""
        server = self.connect()
        from attributary.index.milvus import MilvusIndex

        return MilvusIndex.open(bundle, server, self.collection)


def milvus_options(command: F) -> F:
    """Add the options of a connection to Milvus; the command gets them as `milvus`."""
    options = [
        click.option(
            name,
            type=kind,
            default=default,
            envvar="ATTRIBUTARY_" + name[2:].replace("-", "_").upper(),
            show_default=bool(default),
            show_envvar=True,
            help=text,
        )
        for name, default, kind, text in _OPTIONS
    ]

    @wraps(command)
    def connected(*given: Any, **rest: Any) -> Any:
        milvus = Milvus(*(rest.pop("milvus_" + field.name) for field in fields(Milvus)))
        return command(*given, milvus=milvus, **rest)

    return added(connected, *options)  # type: ignore[return-value]


@click.group("index")
def index_group() -> None:
    """Keep a bundle's index in Milvus, for corpora past one machine."""


@index_group.command("push")
@click.argument("bundle", type=PATH, envvar="ATTRIBUTARY_BUNDLE")
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
def push_command(bundle: Path, milvus: Milvus, **layout: Any) -> None:
    """Bring the vectors of the BUNDLE directory into a collection, index and load it; resumes where it was cut."""
    opened = Bundle.open(bundle)
    server = milvus.connect()
    from attributary.index.milvus import MilvusIndex
    from attributary.index.milvus_push import PushOptions, push

    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    ) as bars:
        task = bars.add_task("push", total=len(opened.items))
        pushed = push(
            opened,
            server,
            PushOptions(milvus.collection, **layout),
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
@click.argument("bundle", type=PATH, envvar="ATTRIBUTARY_BUNDLE")
@milvus_options
def status_command(bundle: Path, milvus: Milvus) -> None:
    """Say what the collection holds and whether it can serve the BUNDLE directory; one JSON object."""
    opened = Bundle.open(bundle, verify=False)
    index = milvus.open_index(opened)
    from attributary.index.milvus import collection_of

    bundle_id = opened.manifest.bundle_id
    status = {
        "collection": milvus.collection or collection_of(bundle_id),
        "bundle_id": bundle_id,
        "items": index.size,
        "plan": asdict(index.plan),
        "golden_recall": golden_recall(index, opened),
    }
    click.echo(json.dumps(status))


@index_group.command("drop")
@milvus_options
def drop_command(milvus: Milvus) -> None:
    """Remove the collection that --milvus-collection names, if `index push` made it."""
    if not milvus.collection:
        raise InvalidArgumentError("milvus_collection", "must be named")
    server = milvus.connect()
    from attributary.index.milvus_push import drop

    drop(server, milvus.collection)
    click.echo(f"dropped {milvus.collection}")
