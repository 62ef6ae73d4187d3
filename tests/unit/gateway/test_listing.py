"""Pages of items and creators over a real bundle, before, while and after it is changed; embeddings to ask with."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from attributary.attribution.open import open_engine
from attributary.client import AsyncClient, Client, query
from attributary.delta.items import NewItem
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError


@pytest.fixture
async def changed(serve, tiny_bundle_dir, tmp_path, picture):
    """(store, client) of a bundle whose ids 1000 to 1299 have lost Ann's and won some between and around them."""
    store = Store(shutil.copytree(tiny_bundle_dir, tmp_path / "bundle"), open_engine)
    store.delete(Selection(creator="Ann"), who="kim", why="x")
    new = [
        NewItem(item_id, picture(3), "a red ellipse", creator, creator_url=f"https://{creator}.example")
        for item_id, creator in ((-5, "Eve"), (7, "Ada"), (2000, "Bo"), (1500, "Eve"))
    ]
    assert store.add(new, who="kim", why="x").outcomes == [None] * 4
    _, client = await serve(store.engine, store)
    return store, client


async def items_of(client, **asked):
    token, pages = "", []
    while True:
        page = await client.list_items(page_token=token, **asked)
        pages.append([item.id for item in page.entries])
        token = page.next_page_token
        if not token:
            return pages


EXPECTED = [-5, 7, *(item_id for item_id in range(1000, 1300) if (item_id - 1000) % 4), 1500, 2000]


@pytest.mark.parametrize("size", [1, 2, 100, 229, 230, 1000])
async def test_items_come_by_id_exactly_once(changed, size):
    pages = await items_of(changed[1], page_size=size)
    assert [item_id for page in pages for item_id in page] == EXPECTED
    assert {len(page) for page in pages[:-1]} <= {size}


async def test_items_of_one_creator(changed):
    _, client = changed
    assert await items_of(client, creator="Eve", page_size=1) == [[-5], [1500]]
    bo = await items_of(client, creator="Bo", page_size=1000)
    assert bo == [[*range(1001, 1300, 4), 2000]]
    assert await items_of(client, creator="Ann") == [[]]
    page = await client.list_items(creator="Eve")
    assert page.entries[0].creator_url == "https://Eve.example"
    assert page.entries[0].caption == "a red ellipse"


async def test_pages_live_through_changes_and_a_compaction(changed, picture):
    store, client = changed
    first = await client.list_items(page_size=100)
    store.delete(Selection(ids=(first.entries[-1].id, EXPECTED[150])), who="kim", why="x")
    store.add([NewItem(8, picture(3), "a", "Eve"), NewItem(3000, picture(3), "a", "Eve")], who="kim", why="x")
    store.compact(who="kim", why="x", flip=lambda engine: None)
    # The compacted bundle is another one, asked with the token of the one before.
    from attributary.gateway import listing
    from attributary.v1 import attribution_pb2 as pb

    request = pb.ListItemsRequest(page_size=1000, page_token=first.next_page_token)
    rest = [item.id for item in listing.items(store.snapshot, request).items]
    assert rest == [item_id for item_id in EXPECTED[100:] if item_id != EXPECTED[150]] + [3000]


async def test_creators_come_by_name_with_their_counts(changed):
    _, client = changed
    expected = [("Ada", 1), ("Bo", 76), ("Cy", 75), ("Dee", 75), ("Eve", 2)]
    token, found = "", []
    while True:
        page = await client.list_creators(page_size=2, page_token=token)
        found += page.entries
        token = page.next_page_token
        if not token:
            break
    assert [(one.name, one.item_count) for one in found] == expected
    assert found[0].creator_url == "https://Ada.example"


async def test_wrong_pages_name_the_field(changed):
    _, client = changed
    for call, field in (
        (client.list_items(page_size=0), "page_size"),
        (client.list_items(page_size=1001), "page_size"),
        (client.list_items(page_token="?"), "page_token"),
        (client.list_items(page_token="eA=="), "page_token"),
        (client.list_items(page_token="OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"), "page_token"),
        (client.list_items(page_token="ä"), "page_token"),
        (client.list_items(creator="nobody"), "creator"),
        (client.list_creators(page_size=0), "page_size"),
        (client.list_creators(page_token="/"), "page_token"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            await call
        assert caught.value.field == field


@pytest.mark.parametrize("prompt", ["", "a red ellipse"])
def test_an_embedding_asks_what_its_picture_would(client: Client, picture, prompt):
    embedded = client.embed(picture(3), prompt=prompt)
    info = client.describe()
    assert embedded.vector.shape == (info.dim,)
    assert np.linalg.norm(embedded.vector) == pytest.approx(1, abs=1e-5)
    assert embedded.has_prompt == bool(prompt)
    assert (embedded.bundle_id, embedded.encoder_digest) == (info.bundle_id, info.encoder_digest)
    asked = client.attribute(picture(3), prompt=prompt)
    again = client.attribute(embedding=embedded.vector, has_prompt=embedded.has_prompt)
    assert [item.id for item in again.items] == [item.id for item in asked.items]
    assert again.diffuse_share == pytest.approx(asked.diffuse_share, abs=1e-5)
    assert client.attribute(embedding=embedded).items == again.items


def test_an_embedding_of_another_encoder_is_refused_whatever_its_dimensions(client: Client, picture):
    made = client.embed(picture(3))
    foreign = replace(made, encoder_digest="0" * 64)
    with pytest.raises(InvalidArgumentError, match="must be that of this bundle's encoder") as caught:
        client.attribute(embedding=foreign)
    assert caught.value.field == "query.embedding.encoder_digest"
    good, bad = client.attribute_batch([query(embedding=made), query(embedding=foreign)])
    assert not isinstance(good, Exception) and good.items
    assert isinstance(bad, InvalidArgumentError) and bad.field == "queries[1].embedding.encoder_digest"


async def test_embed_refuses_what_is_none_and_what_is_one(server, picture):
    async with AsyncClient(server.address, retry=False) as client:
        with pytest.raises(InvalidArgumentError, match=r"query\.image"):
            await client.embed(b"no picture")
        assert (await client.embed(picture(1))).vector.size
    import grpc

    from attributary.v1 import attribution_pb2 as pb
    from attributary.v1 import attribution_pb2_grpc as rpc

    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = rpc.AttributionServiceStub(channel)
        request = pb.EmbedRequest(query=pb.Query(embedding=pb.Embedding(values=[1.0])))
        with pytest.raises(grpc.aio.AioRpcError, match="is an embedding already"):
            await stub.Embed(request)


def test_a_description_says_what_shares_mean_and_items_whose_they_are(client: Client, picture):
    info = client.describe()
    assert info.calibration.method
    assert info.calibration.labels_digest == ""
    assert info.calibration.image.temperature > 0
    assert info.candidates > 0
    item = client.attribute(picture(3), top_k=1).items[0]
    known = client.get_item(item.id)
    assert (item.creator_url, item.near_dup_group) == (known.creator_url, known.near_dup_group)
