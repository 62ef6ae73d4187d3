"""`attributary index`: a bundle's vectors in Milvus."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import click

from attributary.bundle.bundle import Bundle
from attributary.errors import InvalidArgumentError, needs
from attributary.index.base import golden_recall
from attributary.index.planning import Choice

from .options import Argument, From, Option, declared

if TYPE_CHECKING:
    from attributary.index.milvus import MilvusIndex
    from attributary.index.milvus_client import MilvusServer


@dataclass(frozen=True, slots=True)
class Milvus:
    """Where a Milvus is, and a collection in it: the options of a connection."""

    milvus_uri: Annotated[str, Option("URL of a Milvus, or a .db file for milvus-lite", env=True)] = (
        "http://127.0.0.1:19530"
    )
    milvus_token: Annotated[str, Option("user:password or API key", env=True)] = ""
    milvus_collection: Annotated[str, Option("collection; default: attributary_<bundle id>", env=True)] = ""
    milvus_timeout_s: Annotated[
        float, Option("how long one call may take; then Milvus counts as away", env=True)
    ] = 10.0

    def connect(self) -> MilvusServer:
        """Connect; raises UnavailableError, also where pymilvus is not installed."""
        with needs("milvus"):
            from attributary.index.milvus_client import MilvusServer

        return MilvusServer(self.milvus_uri, self.milvus_token, self.milvus_timeout_s)

    def open_index(self, bundle: Bundle) -> MilvusIndex:
        """Open a bundle's index there, for `open_engine`."""
        server = self.connect()
        from attributary.index.milvus import MilvusIndex

        return MilvusIndex.open(bundle, server, self.milvus_collection)


AtMilvus: TypeAlias = Annotated[Milvus, From(Milvus)]
BundleWord: TypeAlias = Annotated[Path, Argument(env="ATTRIBUTARY_BUNDLE")]


@click.group("index")
def index_group() -> None:
    """Keep a bundle's index in Milvus, for corpora past one machine."""


@index_group.command("push")
@declared
def push_command(
    *,
    bundle: BundleWord,
    milvus: AtMilvus,
    index_type: Annotated[
        Choice, "auto: IVF_PQ with the bundle's parameters; gpu: GPU_IVF_PQ; flat: an exact scan"
    ] = "auto",
    shards: Annotated[int, "channels that writes are spread over"] = 1,
    replicas: Annotated[int, "copies in memory"] = 1,
    segment_rows: Annotated[int | None, "rows of a sealed segment; default: Milvus's 1 GiB"] = None,
    force: Annotated[bool, "replace what the collection holds"] = False,
) -> None:
    """Bring the vectors of the BUNDLE directory into a collection, index and load it; resumes where it was cut."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
            PushOptions(milvus.milvus_collection, index_type, shards, replicas, segment_rows, force),
            lambda done, total: bars.update(task, completed=done, total=total),
        )
    recall = golden_recall(MilvusIndex.open(opened, server, pushed.collection), opened)
    click.echo(
        f"collection {pushed.collection}: {pushed.rows} items, {pushed.sent} sent now, "
        f"{pushed.plan.index_type} {pushed.plan.build or ''}".rstrip()
    )
    click.echo(f"golden queries: {recall:.3f} of the expected items are found")
    if server.is_lite and index_type != "flat":
        click.echo("milvus-lite has no IVF_PQ: the collection is scanned exactly", err=True)


@index_group.command("status")
@declared
def status_command(bundle: BundleWord, milvus: AtMilvus) -> None:
    """Say what the collection holds and whether it can serve the BUNDLE directory; one JSON object."""
    opened = Bundle.open(bundle, verify=False)
    index = milvus.open_index(opened)
    from attributary.index.milvus import collection_of

    bundle_id = opened.manifest.bundle_id
    status = {
        "collection": milvus.milvus_collection or collection_of(bundle_id),
        "bundle_id": bundle_id,
        "items": index.size,
        "plan": asdict(index.plan),
        "golden_recall": golden_recall(index, opened),
    }
    click.echo(json.dumps(status))


@index_group.command("drop")
@declared
def drop_command(milvus: AtMilvus) -> None:
    """Remove the collection that --milvus-collection names, if `index push` made it."""
    if not milvus.milvus_collection:
        raise InvalidArgumentError("milvus_collection", "must be named")
    server = milvus.connect()
    from attributary.index.milvus_push import drop

    drop(server, milvus.milvus_collection)
    click.echo(f"dropped {milvus.milvus_collection}")
