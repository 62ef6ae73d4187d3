"""A small engine in place of a bundle: what the gateway may ask of `Engine`, answers that say what was asked."""

import asyncio
import contextlib
import dataclasses
import json
import shutil
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from attributary.attribution.open import open_engine
from attributary.attribution.types import AttributedItem, Attribution, CreatorShare, Limits, Prepared
from attributary.bundle.items import ItemRecord
from attributary.bundle.manifest import ShareCalibration
from attributary.client import AsyncClient
from attributary.client.admin import Addition, AdminClient
from attributary.delta.journal.records import NOBODY
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError, NotFoundError
from attributary.gateway.config import GatewayConfig
from attributary.gateway.opened import Opened
from attributary.gateway.server import Gateway
from attributary.pictures import CostlyPicture
from attributary.v1 import attribution_pb2_grpc as rpc
from tests.support.http_calls import JSON, fetch

DIM = 4
FAKE_ID = "00000000000000aa"
TOKEN = "s3cret"
SHARES = ShareCalibration(0.1, 0.0, 0.2, 0.2)


class FakeEngine:
    """Similarity of the first item is the embedding's first value; pixels answer with their first byte.

    An embedding of -13 is poison: the batch that holds it fails. `gate` closed holds every batch.
    """

    def __init__(self, bundle_id=FAKE_ID, limits=None):
        self.limits = limits or Limits(max_batch_queries=8)
        self.encoder = SimpleNamespace(spec=SimpleNamespace(dim=DIM))
        manifest = SimpleNamespace(
            bundle_id=bundle_id,
            version="1",
            subject=SimpleNamespace(id="none"),
            encoder=SimpleNamespace(name="fake", digest="ff", dim=DIM, image_size=8, max_tokens=16),
            index=SimpleNamespace(factory="Flat", recall_at_10=1.0, candidates=100),
            item_count=3,
            creator_count=2,
            notes={},
            names_in_prompts="",
            calibration=SimpleNamespace(method="by hand", image=SHARES, image_and_prompt=SHARES),
        )
        self.bundle = SimpleNamespace(
            manifest=manifest, items=FakeItems(), directory=Path("bundles") / bundle_id, thumbnails=None
        )
        self.snapshot = SimpleNamespace(
            bundle=self.bundle,
            row_of=self.row_of,
            item_count=3,
            creator_count=2,
            candidate_count=3,
            revision=0,
            added_count=0,
            deleted_count=0,
            deleted={},
            added=np.zeros((0, DIM), np.float32),
            alive=None,
            thumbnail=self.thumbnail,
            filters=SimpleNamespace(former=NOBODY),
        )
        self.gate = threading.Event()
        self.gate.set()
        self.costly_s = 1.0
        self.costly_gate = threading.Event()
        self.costly_begun = threading.Event()
        self.started = threading.Semaphore(0)
        self.batches = []

    def prepare(self, query, options=None, field="query", *, wait=True):
        if options is not None and options.top_k == 0:
            raise InvalidArgumentError("options.top_k", "must be at least 1")
        prepared = Prepared(1, 1, options.filter if options else None, has_prompt=False)
        if query.embedding is not None:
            if query.embedding.shape != (DIM,):
                raise InvalidArgumentError(f"{field}.embedding", f"must have {DIM} values")
            prepared.embedding = query.embedding
        elif query.pixels is not None:
            prepared.pixels = query.pixels
        elif query.image == b"costly":
            if not wait:
                raise CostlyPicture(field, self.costly_s)
            self.costly_begun.set()
            assert self.costly_gate.wait(120)
            prepared.pixels = np.zeros((4, 4, 3), np.uint8)
        elif query.image == b"defect":
            raise ZeroDivisionError("secret of the server")
        else:
            raise InvalidArgumentError(field if query.image is None else f"{field}.image", "is wrong")
        return prepared

    def run(self, batch):
        self.batches.append([_value(prepared) for prepared in batch])
        self.started.release()
        assert self.gate.wait(120)
        if any(_value(prepared) == -13 for prepared in batch):
            raise ZeroDivisionError("secret of the server")
        return [_answer(prepared) for prepared in batch]

    def scored(self, batch):
        return self.run(batch)

    def embed(self, batch):
        return np.stack([np.full(DIM, _value(prepared), np.float32) for prepared in batch])

    def thumbnail(self, item_id):
        self.row_of(item_id)

    def row_of(self, item_id):
        if item_id != 7:
            raise NotFoundError("item", str(item_id))
        return 0


class FakeItems:
    nbytes = 30

    def id_of(self, row):
        return 7

    def __len__(self):
        return 3

    def creator(self, row):
        return "Ann"

    def record(self, row):
        return ItemRecord(7, "a cat", "Ann", "", "CC0-1.0", "file:cat.png", 5)

    def ids_of(self, creator):
        return ()


def _value(prepared):
    return float(prepared.embedding[0] if prepared.embedding is not None else prepared.pixels.flat[0])


def _answer(prepared):
    prepared.timings.batch_size = 1
    prepared.timings.search = 0.5
    item = AttributedItem(7, 1, _value(prepared), 0.25, "a cat", "Ann", "CC0-1.0", "file:cat.png")
    creators = (CreatorShare("Ann", 0.25, 1),)
    return Attribution((item,), creators, 0.5, 0.25, False, 3, prepared.timings)


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def fake_engine():
    """The class, for tests that need another one."""
    return FakeEngine


@pytest.fixture
def config():
    return GatewayConfig(port=0, metrics_port=-1, drain_s=5.0, permits=8, pinned_s=0.0, event_loop="asyncio")


@pytest.fixture
def vector():
    """An embedding whose first value comes back as the similarity."""

    def make(value):
        return np.array([value, 0, 0, 0], np.float32)

    return make


@pytest.fixture
def addition(picture):
    """Function: id, number of a picture, fields -> an item to add."""
    return lambda item_id, number=3, **fields: Addition(
        item_id, picture(number), **{"caption": "a orange rectangle", "creator": "Eve", **fields}
    )


@pytest.fixture
async def serve(config):
    """Start a gateway with other settings; everything is stopped at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(engine, store=None, more=None, **settings):
            gateway = Gateway(engine, dataclasses.replace(config, **settings), store=store, **(more or {}))
            await gateway.start()

            async def stop():
                if isinstance(engine, FakeEngine):
                    engine.gate.set()
                    engine.costly_gate.set()
                await gateway.drain(0)

            stack.push_async_callback(stop)
            client = await stack.enter_async_context(
                AsyncClient(f"127.0.0.1:{gateway.port}", retry=False, timeout_s=20)
            )
            return gateway, client

        yield start


@pytest.fixture
async def stub(serve, engine):
    gateway, _ = await serve(engine)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        yield rpc.AttributionServiceStub(channel)


@pytest.fixture
async def site(serve, engine):
    """Start a gateway with HTTP; return a function that asks it."""

    async def start(engine=engine, **settings):
        gateway, client = await serve(engine, http_port=0, **settings)

        async def ask(method, path, body=None, headers=None):
            if isinstance(body, dict):
                body, headers = json.dumps(body), {**JSON, **(headers or {})}
            return await asyncio.to_thread(fetch, gateway.http_port, method, path, body, headers)

        return gateway, client, ask

    return start


def open_bundle(place):
    store = Store(place, open_engine)
    return Opened(store.engine, store)


@pytest.fixture
def places(tiny_bundle_dir, tmp_path):
    """Two bundles side by side: the tiny one, and one that was compacted after a deletion."""
    one = shutil.copytree(tiny_bundle_dir, tmp_path / "bundles" / "one")
    two = shutil.copytree(tiny_bundle_dir, tmp_path / "bundles" / "two")
    with Store(two, open_engine) as store:
        store.delete(Selection(ids=(1000,)), who="kim", why="x")
        store.compact(who="kim", why="x")
    return one, two


@pytest.fixture
async def running(serve, places, tmp_path):
    """(gateway, client, what runs a function with an admin client in a thread)."""
    (tmp_path / "admins").write_text(f"kim {TOKEN}\n")
    first = open_bundle(places[0])
    gateway, client = await serve(
        first.engine,
        first.store,
        more={"open_bundle": open_bundle},
        admin_tokens_file=tmp_path / "admins",
        pinned_s=3600.0,
    )

    def ask(change):
        with AdminClient(f"127.0.0.1:{gateway.port}", token=TOKEN) as admin:
            return change(admin)

    return gateway, client, partial(asyncio.to_thread, ask)


async def shown(client, picture, bundle=""):
    """Creators of whom anything can be seen."""
    answer = await client.attribute(picture(5), top_k=300, top_creators=300, bundle_id=bundle)
    return {item.creator for item in answer.items} | {total.creator for total in answer.creators}


@pytest.fixture
def tokens(tmp_path):
    """Two who administer: kim with s3cret, lee with other."""
    path = tmp_path / "admins"
    path.write_text("# who may\nkim s3cret\nlee other\n")
    return path


@pytest.fixture
def bundle_dir(tiny_bundle_dir, tmp_path):
    """A bundle to change."""
    return shutil.copytree(tiny_bundle_dir, tmp_path / "bundle")
