"""The demo's bundle behind Triton: 200 queries, every way in, the embedded engine's answers.

    python -m pytest tests/triton/test_real_bundle.py -m slow

The bundle is what ATTRIBUTARY_PARITY_BUNDLE names, else out/demo/bundle; pictures are drawn, since answers are
compared with the embedded engine's and not with the truth.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from attributary.attribution.open import open_engine
from attributary.attribution.types import Query
from attributary.client import query
from attributary.triton.materialize import Settings, materialize

from .test_parity import batches, same, same_rows

ROOT = Path(__file__).parents[2]
QUERIES = 200
PROMPTS = (
    "",
    "a smiling face with sunglasses",
    "",
    "a red car on a road at night",
    "flag of a country",
    "tree",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle():
    """Directory of the bundle; skips where there is none."""
    named = os.environ.get("ATTRIBUTARY_PARITY_BUNDLE")
    found = Path(named) if named else ROOT / "out/demo/bundle"
    if not (found / "manifest.json").is_file():
        pytest.skip(f"no bundle in {found}; run `make demo`, or set ATTRIBUTARY_PARITY_BUNDLE")
    return found


@pytest.fixture(scope="module")
def real_engine(bundle):
    """The embedded engine on it: the oracle."""
    return open_engine(bundle)


@pytest.fixture(scope="module")
def real_questions():
    """200 pictures of coloured shapes, each different, a prompt with some."""
    rng = np.random.default_rng(3)
    made = []
    for number in range(QUERIES):
        side = int(rng.integers(120, 400))
        y, x = np.mgrid[:side, : side + number % 50]
        picture = np.full((*y.shape, 3), rng.integers(0, 256, 3), np.float32)
        for _ in range(int(rng.integers(1, 6))):
            middle, radius = rng.random(2) * side, rng.random(2) * side / 2 + 5
            inside = ((y - middle[0]) / radius[0]) ** 2 + ((x - middle[1]) / radius[1]) ** 2 < 1
            picture[inside] = rng.integers(0, 256, 3)
        picture += rng.normal(0, 6, picture.shape)
        made.append(
            Query(pixels=picture.clip(0, 255).astype(np.uint8), prompt=PROMPTS[number % len(PROMPTS)])
        )
    return made


@pytest.fixture(scope="module")
def real_expected(real_engine, real_questions):
    """What the embedded engine answers."""
    return [real_engine.attribute(question) for question in real_questions]


@pytest.fixture(scope="module", params=["python", "faiss"])
def real_triton(request, bundle, tmp_path_factory, start_triton, faiss_backend):
    """A tritonserver with the bundle, and each implementation of the index in turn."""
    if request.param == "faiss" and faiss_backend is None:
        pytest.skip("libtriton_faiss.so is not built (make triton-backend)")
    out = tmp_path_factory.mktemp("repository") / request.param
    materialize(bundle, out, Settings(encoder_instances=1, index_backend=request.param))
    with start_triton(out) as server:
        yield server


@pytest.mark.parametrize("memory", ["auto", "off"])
def test_through_the_gateway(real_triton, start_gateway, bundle, real_questions, real_expected, memory):
    flags = ("--triton-shared-memory", memory)
    with start_gateway(real_triton, *flags, bundle=bundle) as gateway, gateway.client() as client:
        for question, wanted in zip(real_questions[:100], real_expected, strict=False):
            same(client.attribute(question.pixels, prompt=question.prompt), wanted)
        for part in batches(QUERIES):
            inputs = [query(question.pixels, prompt=question.prompt) for question in real_questions[part]]
            for answer, wanted in zip(client.attribute_batch(inputs), real_expected[part], strict=True):
                same(answer, wanted)


@pytest.mark.parametrize("module", [tritonclient.grpc, tritonclient.http], ids=["grpc", "http"])
def test_through_tritonclient(module, real_triton, real_engine, real_questions, real_expected, ask, tensors):
    address = real_triton.grpc_address if module is tritonclient.grpc else real_triton.http_address
    prepared = [real_engine.prepare(question) for question in real_questions]
    vectors = real_engine.embed(prepared)
    with module.InferenceServerClient(address) as client:
        for part in batches(QUERIES):
            inputs = tensors(prepared[part], real_engine.tokenizer)
            same_rows(ask(module, client, "attribution", inputs), real_expected[part], real_engine)
            inputs = tensors(prepared[part], real_engine.tokenizer, embeddings=vectors[part])
            same_rows(ask(module, client, "index", inputs), real_expected[part], real_engine)
