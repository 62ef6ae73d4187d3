"""Who creators are travels with every answer that names them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.attribution.open import open_engine
from attributary.building import build_bundle
from attributary.client import AsyncClient

ISNI = "isni:0000000121032683"


@pytest.fixture
def known_dir(tiny, tiny_encoder_dir, tmp_path):
    corpus = tiny.draw_corpus(tmp_path / "corpus", 40)
    rows = pq.read_table(corpus / "items.parquet").to_pylist()
    ids = [{**row, "creator_ids": [ISNI] if row["creator"] == "Ann" else []} for row in rows]
    pq.write_table(pa.Table.from_pylist(ids), corpus / "items.parquet")
    build_bundle(corpus, tiny_encoder_dir, tmp_path / "bundle", probes=20, workers=1)
    return tmp_path / "bundle"


async def test_identifiers_are_on_the_wire(serve, known_dir, picture):
    _, client = await serve(open_engine(known_dir))
    answer = await client.attribute(picture(0), top_k=40)
    wanted = {"Ann": (ISNI,), "Bo": (), "Cy": (), "Dee": ()}
    assert {item.creator: item.creator_ids for item in answer.items} == wanted
    assert {total.creator: total.creator_ids for total in answer.creators}.items() <= wanted.items()
    assert (await client.get_item(1000)).creator_ids == (ISNI,)
    assert {one.name: one.creator_ids for one in (await client.list_creators()).entries} == wanted


async def test_identifiers_are_hidden_where_names_are(serve, known_dir, picture, tmp_path):
    (tmp_path / "tokens").write_text("reader secret roles=query\n")
    (tmp_path / "tokens").chmod(0o600)
    engine = open_engine(known_dir)
    gateway, _ = await serve(engine, tokens_file=tmp_path / "tokens", redact="creator")
    async with AsyncClient(f"127.0.0.1:{gateway.port}", token="secret", retry=False, timeout_s=20) as client:
        answer = await client.attribute(picture(0), top_k=40)
    assert {item.creator for item in answer.items} == {total.creator for total in answer.creators} == {""}
    assert not any(item.creator_ids for item in answer.items)
    assert not any(total.creator_ids for total in answer.creators)
