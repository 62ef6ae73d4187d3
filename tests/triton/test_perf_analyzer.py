"""NVIDIA's own load generator asks both implementations of the index, and the whole way, without a failed request."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def perf_analyzer():
    # For this one import only: benchmarks/triton.py must not be what torch finds when it looks for its triton.
    sys.path.insert(0, BENCHMARKS)
    try:
        import perf_analyzer
    finally:
        sys.path.remove(BENCHMARKS)

    try:
        return perf_analyzer, perf_analyzer.find()
    except perf_analyzer.CannotRunError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("model", ["index", "attribution"])
@pytest.mark.parametrize(("concurrency", "batch"), [(1, 1), (4, 8)])
def test_perf_analyzer(perf_analyzer, indexed, engine, questions, tensors, model, concurrency, batch):
    module, command = perf_analyzer
    prepared = [engine.prepare(question) for question in questions[:16] if not question.prompt]
    vectors = engine.embed(prepared) if model == "index" else None
    inputs = tensors(prepared, engine.tokenizer, embeddings=vectors)
    found = module.measure(
        command, indexed.grpc_address, model, inputs, concurrency=concurrency, batch=batch, seconds=0.3
    )
    assert found["queries_per_s"] > 0
    assert found["p50_ms"] > 0
