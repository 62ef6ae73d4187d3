"""A picture, its answer by the tiny engine, and keys to sign with."""

import io

import pytest
from PIL import Image

from attributary.attribution.types import Options, Query
from attributary.receipts.envelope import seal
from attributary.receipts.keys import SigningKey
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
