"""A picture, its answer by the tiny engine, and keys to sign with."""

import hashlib
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attributary.attribution.types import Options, Query
from attributary.receipts.before import GENERATIONS, STATEMENT
from attributary.receipts.envelope import seal
from attributary.receipts.keys import SigningKey
from attributary.receipts.payout import as_json
from attributary.receipts.statement import QueryFacts, answer_statement, bundle_facts


@pytest.fixture(scope="session")
def key():
    """A key that signs."""
    return SigningKey.new()


@pytest.fixture(scope="session")
def known(key):
    """Keys to verify with: this one and another."""
    other = SigningKey.new()
    return {one.public.key_id: one.public for one in (key, other)}


@pytest.fixture(scope="session")
def sign(tiny_engine, key):
    """Function: (picture bytes, prompt="", key=..., **options) -> (answer, receipt)."""

    def make(data, prompt="", key=key, **options):
        answer = tiny_engine.attribute(Query(image=data, prompt=prompt), Options(digests=True, **options))
        query = QueryFacts(prompt, options.get("filter", Options().filter))
        facts = bundle_facts(tiny_engine.bundle.manifest)
        return answer, seal(answer_statement(answer, answer.picture, facts, query), key)

    return make


@pytest.fixture
def written_again():
    """Function: (picture, format="PNG", **settings) -> its pixels in another file."""

    def write(data, form="PNG", **settings):
        out = io.BytesIO()
        Image.open(io.BytesIO(data)).save(out, form, **settings)
        return out.getvalue()

    return write


@pytest.fixture
def write_run(tmp_path):
    """Function: creators {name: total} -> a run directory; further columns and facts may be given.

    `rows` are (generation id, what the picture's digest is of); without them every run has its own. `kind` is that of
    its input.
    """

    def write(
        creators, answered=10, foreign=0, withheld=0.0, columns=None, name="run", rows=None, kind="parquet", **facts
    ):  # fmt: skip
        run = tmp_path / name
        (run / "shards").mkdir(parents=True, exist_ok=True)
        facts = {"run": "00000000000000aa", **facts}
        rows = rows or [(f"g-{number}", f"{facts['run']} {number}") for number in range(answered)]
        table = {
            "creator": list(creators),
            "share": list(creators.values()),
            "share_in_distribution": list(creators.values()),
            "generations": [answered] * len(creators),
            "mean_share": [total / answered if answered else 0.0 for total in creators.values()],
        }
        pq.write_table(pa.table(table | (columns or {})), run / "creators.parquet")
        generations = {
            "generation_id": [generation_id for generation_id, _ in rows],
            "image_sha256": [hashlib.sha256(picture.encode()).hexdigest() for _, picture in rows],
            "error_code": pa.nulls(len(rows), pa.string()),
        }
        pq.write_table(pa.table(generations), run / "shards" / "shard-000000.parquet")
        (run / "run.json").write_text(json.dumps({"inputs": [{"name": "log", "kind": kind}]}))
        files = ("run.json", "shards/shard-000000.parquet", "creators.parquet")
        summary = {
            "bundle_id": "00000000000000bb", "answered": answered, "out_of_distribution": foreign,
            "withheld_share": withheld,
            "files": {file: hashlib.sha256((run / file).read_bytes()).hexdigest() for file in files}, **facts,
        }  # fmt: skip
        (run / "summary.json").write_text(json.dumps(summary))
        return run

    return write


@pytest.fixture
def lay_down():
    """Function: (statement, folder) -> its payout.json there, with what lies beside it."""

    def lay(statement, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / GENERATIONS).write_bytes(statement.generations)
        (folder / STATEMENT).write_text(json.dumps(as_json(statement, [])))
        return folder / STATEMENT

    return lay
