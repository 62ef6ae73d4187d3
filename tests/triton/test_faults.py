"""A tritonserver that is killed, stopped, or sent nonsense: callers get an error at once, and nothing hangs."""

import os
import signal
import threading
import time
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from attributary.attribution.types import Options
from attributary.errors import DeadlineError, InvalidArgumentError, UnavailableError

# Far above what any of this takes, far below a hang.
SOON_S, LONG_S = 60.0, 250.0


def health(gateway):
    with grpc.insecure_channel(gateway.address) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60).status


def until(condition, seconds=120.0):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come about")


class Load:
    """Callers that never stop asking; every answer's age and every error is kept."""

    def __init__(self, gateway, question, callers=6, pause_s=0.0):
        self.gateway, self.question, self.pause_s = gateway, question, pause_s
        self.answers, self.errors, self.slowest, self.bundles = 0, [], 0.0, set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(callers)]

    def _ask(self):
        with self.gateway.client(timeout_s=LONG_S) as client:
            while not self._stop.is_set():
                started = time.monotonic()
                try:
                    self.bundles.add(client.attribute(self.question.pixels).bundle_id)
                    self.answers += 1
                except Exception as error:
                    self.errors.append(error)
                    time.sleep(0.01)
                self.slowest = max(self.slowest, time.monotonic() - started)
                time.sleep(self.pause_s)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(LONG_S)
        assert not any(thread.is_alive() for thread in self._threads), "a caller hangs"


@pytest.fixture
def own_triton(repository, start_triton):
    """A tritonserver that the test may kill."""
    with start_triton(repository) as server:
        yield server


def test_killed_under_load_and_back_again(own_triton, start_gateway, questions, engine):
    with (
        start_gateway(own_triton, "--remote-timeout-s", str(LONG_S)) as gateway,
        Load(gateway, questions[0]) as load,
    ):
        until(lambda: load.answers > 20)
        assert health(gateway) == health_pb2.HealthCheckResponse.SERVING
        os.kill(own_triton.pid, signal.SIGKILL)
        own_triton.wait()
        own_triton.clean_up()
        until(lambda: len(load.errors) > 20)
        until(lambda: health(gateway) == health_pb2.HealthCheckResponse.NOT_SERVING)
        own_triton.start()
        own_triton.wait_until_ready()
        until(lambda: health(gateway) == health_pb2.HealthCheckResponse.SERVING)
        before, failures = load.answers, len(load.errors)
        until(lambda: load.answers > before + 20)
        assert len(load.errors) <= failures + 6
    assert {type(error) for error in load.errors} == {UnavailableError}
    assert load.slowest < SOON_S
    # Where the engine is, is nobody's business outside.
    assert not any("127.0.0.1" in str(error) for error in load.errors)


def test_refused_at_once_while_it_is_away(own_triton, start_gateway, questions):
    with start_gateway(own_triton, "--remote-timeout-s", str(LONG_S)) as gateway, gateway.client() as client:
        client.attribute(questions[0].pixels)
        own_triton.stop()
        with pytest.raises(UnavailableError):
            client.attribute(questions[0].pixels)
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(UnavailableError):
                client.attribute(questions[0].pixels)
        assert time.monotonic() - started < SOON_S
        # What needs no engine is still answered.
        assert client.get_item(1000).creator == "Ann"


def test_a_gateway_may_be_started_first(repository, start_triton, start_gateway, questions):
    server = start_triton(repository)
    with start_gateway(server) as gateway, gateway.client() as client:
        assert health(gateway) == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(UnavailableError):
            client.attribute(questions[0].pixels)
        with server:
            until(lambda: health(gateway) == health_pb2.HealthCheckResponse.SERVING)
            assert client.attribute(questions[0].pixels).items


def test_a_server_that_hangs_counts_as_away(own_triton, start_gateway, questions):
    with start_gateway(own_triton, "--remote-timeout-s", "0.5") as gateway, gateway.client() as client:
        client.attribute(questions[0].pixels)
        os.killpg(own_triton.pid, signal.SIGSTOP)
        try:
            with pytest.raises(UnavailableError):
                client.attribute(questions[0].pixels, timeout_s=10)
            until(lambda: health(gateway) == health_pb2.HealthCheckResponse.NOT_SERVING)
        finally:
            os.killpg(own_triton.pid, signal.SIGCONT)
        until(lambda: health(gateway) == health_pb2.HealthCheckResponse.SERVING)
        assert client.attribute(questions[0].pixels).items


def test_a_callers_deadline_holds_while_the_server_hangs(own_triton, start_gateway, questions):
    with start_gateway(own_triton) as gateway, gateway.client() as client:
        client.attribute(questions[0].pixels)
        os.killpg(own_triton.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(DeadlineError):
                client.attribute(questions[0].pixels, timeout_s=0.3)
            assert time.monotonic() - started < SOON_S
        finally:
            os.killpg(own_triton.pid, signal.SIGCONT)
        until(lambda: _answers(client, questions[0]))


def _answers(client, question):
    try:
        return bool(client.attribute(question.pixels).items)
    except (UnavailableError, DeadlineError):
        return False


def test_errors_of_a_query_are_those_of_the_embedded_engine(gateway, engine, questions):
    with gateway.client() as client:
        for settings, options, embedding in (
            ({"top_k": 0}, Options(top_k=0), None),
            ({"top_k": 1001}, Options(top_k=1001), None),
            ({}, Options(), np.zeros(engine.spec.dim, np.float32)),
            ({}, Options(), np.ones(engine.spec.dim + 1, np.float32)),
        ):
            with pytest.raises(InvalidArgumentError) as caught:
                if embedding is None:
                    client.attribute(questions[0].pixels, **settings)
                else:
                    client.attribute(embedding=embedding)
            with pytest.raises(InvalidArgumentError) as wanted:
                kind = {"embedding": embedding} if embedding is not None else {"pixels": questions[0].pixels}
                engine.prepare(type(questions[0])(**kind), options)
            assert (caught.value.field, caught.value.message) == (wanted.value.field, wanted.value.message)


@pytest.mark.parametrize("model", ["index"])
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("filter", np.zeros((1, 3), np.uint8), "filter: must have 38 bytes or none, got 3"),
    ],
)
def test_the_index_names_the_wrong_input(indexed, engine, questions, ask, tensors, model, name, value, text):
    prepared = [engine.prepare(questions[0])]
    vectors = engine.embed(prepared) if model == "index" else None
    inputs = {**tensors(prepared, engine.tokenizer, embeddings=vectors), name: value}
    with tritonclient.grpc.InferenceServerClient(indexed.grpc_address) as client:
        with pytest.raises(InferenceServerException) as caught:
            ask(tritonclient.grpc, client, model, inputs)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        # An ensemble keeps the reason, and puts its own words in front.
        assert text in caught.value.message()
        good = tensors(prepared, engine.tokenizer, embeddings=engine.embed(prepared))
        assert ask(tritonclient.grpc, client, "index", good)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0, 0.0])
def test_an_embedding_that_is_no_unit_vector(indexed, engine, questions, ask, tensors, value):
    prepared = [engine.prepare(question) for question in questions[:2]]
    inputs = tensors(prepared, engine.tokenizer, embeddings=engine.embed(prepared))
    inputs["embedding"][1] *= value
    with tritonclient.grpc.InferenceServerClient(indexed.grpc_address) as client:
        with pytest.raises(InferenceServerException, match="embedding") as caught:
            ask(tritonclient.grpc, client, "index", inputs)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_metrics_and_phases(gateway, questions):
    with gateway.client() as client:
        timings = client.attribute(questions[0].pixels, timings=True).timings
        assert timings.encode > 0 and timings.search > 0 and timings.rescore > 0
        phases = ("queue", "decode", "preprocess", "tokenize", "encode", "search", "rescore", "assemble")
        assert sum(getattr(timings, phase) for phase in phases) <= timings.total * 1.05

    def page():
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.metrics_port}/metrics", timeout=60) as reply:
            return reply.read().decode()

    assert "attributary_engine_up 1.0" in page()
    until(lambda: 'attributary_engine_seconds{part="encoder",phase="queue"}' in page())
