"""A stream ends at its next message where its caller may not call any more; what was answered stays."""

import asyncio
import shutil

import pytest

from attributary.attribution.open import open_engine
from attributary.client import AsyncClient, query
from attributary.client.admin import AsyncAdminClient
from attributary.delta.store import Store
from attributary.errors import AttributaryError, PermissionDeniedError

FILE = "ann first\nbob second\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(FILE)
    return path


async def through(stream, entries, then):
    """Results of a stream whose first entry is answered before `then` is called, and the second one sent."""
    answered, results = asyncio.Event(), []

    async def sent():
        yield entries[0]
        async with asyncio.timeout(30):
            await answered.wait()
        then()
        for entry in entries[1:]:
            yield entry

    try:
        async for result in stream(sent()):
            results.append(result)
            answered.set()
    except AttributaryError as error:
        results.append(error)
    return results


@pytest.mark.parametrize(
    ("then", "kind", "words"),
    [
        ("ann first\n", AttributaryError, "UNAUTHENTICATED"),
        ("ann first\nbob second roles=read-items\n", PermissionDeniedError, "query"),
        # A role that its next queries need, and the stream does not.
        ("ann first\nbob second roles=query\n", PermissionDeniedError, "embeddings"),
        (FILE, None, ""),
    ],
)
async def test_a_stream_of_queries(serve, engine, vector, path, then, kind, words):
    gateway, _ = await serve(engine, tokens_file=path)

    def change():
        path.write_text(then)
        gateway._gate._queries.refresh()

    async with AsyncClient(f"127.0.0.1:{gateway.port}", token="second", retry=False) as client:
        first, last = await through(client.attribute_stream, [query(embedding=vector(1))] * 2, change)
    assert first.items
    if kind is None:
        assert last.items
    else:
        assert isinstance(last, kind) and words in str(last)


async def test_a_stream_of_additions_keeps_what_it_acknowledged(
    serve, tiny_bundle_dir, tmp_path, path, addition
):
    path.write_text("kim admin-token\nzoe second\n")
    store = Store(shutil.copytree(tiny_bundle_dir, tmp_path / "bundle"), open_engine)
    gateway, _ = await serve(store.engine, store, admin_tokens_file=path)

    def change():
        path.write_text("kim admin-token\n")
        gateway._gate._admins.refresh()

    address = f"127.0.0.1:{gateway.port}"
    async with (
        AsyncAdminClient(address, token="second") as zoe,
        AsyncAdminClient(address, token="admin-token") as kim,
    ):
        added, refused = await through(
            lambda items: zoe.add_items(items, why="more"), [addition(1), addition(2, 4)], change
        )
        assert [(entry.who, entry.kind) for entry in await kim.changes()] == [("zoe", "add")]
    assert added.id == 1 and "UNAUTHENTICATED" in str(refused)
