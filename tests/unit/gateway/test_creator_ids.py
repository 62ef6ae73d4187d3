"""Who creators are travels with every answer that names them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.attribution.open import open_engine
from attributary.building import build_bundle

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
