"""Scoring logs with Triton's models: the embedded engine's answers, row for row."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.batch.engines import TritonScorer
from attributary.batch.job import score
from attributary.batch.plan import make_plan
from attributary.batch.run import shard_tables
from attributary.batch.scoring import EngineScorer
from attributary.batch.settings import Settings
from attributary.errors import UnavailableError

SETTINGS = Settings(rows_per_shard=8, batch_size=4)


@pytest.fixture
def log(tmp_path, picture):
    images = [b"junk" if number == 3 else picture(number) for number in range(20)]
    table = {
        "generation_id": [f"g-{number}" for number in range(20)],
        "image": pa.array(images, pa.binary()),
        "prompt": ["a red ellipse" if number % 2 else None for number in range(20)],
    }
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


def rows_of(directory):
    return [row for table in shard_tables(directory) for row in table.to_pylist()]


def test_triton_scores_like_the_engine(triton, engine, tiny_bundle_dir, log, tmp_path):
    settings = replace(SETTINGS, engine="triton")
    scorer = TritonScorer(tiny_bundle_dir, triton.grpc_address, settings)
    try:
        score(make_plan([log], settings), scorer, tmp_path / "triton", workers=3)
    finally:
        scorer.close()
    score(make_plan([log], SETTINGS), EngineScorer(engine, SETTINGS), tmp_path / "engine")
    for far, near in zip(rows_of(tmp_path / "triton"), rows_of(tmp_path / "engine"), strict=True):
        assert [item["id"] for item in far["items"] or []] == [item["id"] for item in near["items"] or []]
        mine = {total["creator"]: total["share"] for total in far["creators"] or []}
        theirs = {total["creator"]: total["share"] for total in near["creators"] or []}
        assert mine == pytest.approx(theirs, abs=1e-3)
        for name in (
            "generation_id",
            "error_code",
            "error_message",
            "image_sha256",
            "has_prompt",
            "bundle_id",
        ):
            assert far[name] == near[name]


def test_no_triton_is_told(tiny_bundle_dir):
    with pytest.raises(UnavailableError):
        TritonScorer(tiny_bundle_dir, "127.0.0.1:1", replace(SETTINGS, engine="triton"))
