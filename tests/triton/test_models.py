"""The Python-backend models without a server: what Triton's stub would call, called here."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from attributary.errors import BundleError, InvalidArgumentError
from attributary.triton.materialize import Settings, materialize
from attributary.triton.models import host
from attributary.triton.models.encoder import EncoderModel
from attributary.triton.models.index import IndexModel


@pytest.fixture(scope="module")
def parameters(tiny_bundle_dir, tmp_path_factory):
    """Function: part -> (parameters, version folder) of a materialised model."""
    import re

    out = tmp_path_factory.mktemp("models")
    bundle_id = materialize(tiny_bundle_dir, out, Settings())

    def of(part):
        text = (out / f"{part}_{bundle_id}" / "config.pbtxt").read_text()
        pairs = re.findall(
            r'^parameters \{ key: "(\w+)" value \{ string_value: "([^"]*)" \} \}$', text, re.MULTILINE
        )
        return dict(pairs), out / f"{part}_{bundle_id}" / "1"

    return of


@pytest.fixture
def index(parameters):
    return IndexModel(*parameters("index"))


def request(engine, questions, **changed):
    return {"embedding": engine.embed([engine.prepare(question) for question in questions]), **changed}


def test_a_wrong_request_fails_alone(index, engine, questions, expected):
    good = request(engine, questions[:2])
    wrong = {"embedding": 2 * request(engine, questions[2:3])["embedding"]}
    outcomes = index.run([good, wrong, request(engine, questions[3:4])])
    assert isinstance(outcomes[1], InvalidArgumentError)
    assert outcomes[1].field == "embedding"
    for outcome, wanted in ((outcomes[0], expected[:2]), (outcomes[2], expected[3:4])):
        for row, answer in enumerate(wanted):
            ids = [engine.bundle.items.id_of(place) for place in outcome["row"][row]]
            assert ids[: len(answer.items)] == [item.id for item in answer.items]
    assert outcomes[0]["timing"][0, 2] == 3


def test_every_answer_holds_all_candidates_and_is_the_same_alone(index, engine, questions):
    some = np.packbits(np.arange(300) % 4 == 2, bitorder="little")[None]
    requests = [
        request(engine, questions[:1]),
        request(engine, questions[1:3]),
        request(engine, questions[:1], filter=some),
        request(engine, questions[4:5], filter=np.zeros((1, 0), np.uint8)),
    ]
    for one, together in zip(requests, index.run(requests), strict=True):
        alone = index.run([one])[0]
        assert together["row"].shape == (len(one["embedding"]), engine.snapshot.candidate_count)
        assert (together["row"] == alone["row"]).all()
        assert (together["similarity"] == alone["similarity"]).all()
        assert (np.diff(together["similarity"]) <= 0).all()


def test_filters_in_one_batch_are_kept_apart(index, engine, questions):
    only = np.packbits(np.arange(300) % 4 == 2, bitorder="little")[None]
    few = np.packbits(np.arange(300) < 3, bitorder="little")[None]
    restricted, listed, none = index.run(
        [
            request(engine, questions[:1], filter=only),
            request(engine, questions[:1], filter=few),
            request(engine, questions[:1], filter=np.zeros_like(only)),
        ]
    )
    assert (restricted["row"] % 4 == 2).all()
    assert sorted(listed["row"][0, :3].tolist()) == [0, 1, 2]
    assert (listed["row"][0, 3:] == -1).all()
    assert (none["row"] == -1).all()


@pytest.mark.parametrize("file", ["index.faiss", "vectors.npy"])
def test_files_are_held_to_their_hashes(parameters, file):
    values, folder = parameters("index")
    name = {"index.faiss": "sha256_index", "vectors.npy": "sha256_vectors"}[file]
    with pytest.raises(BundleError) as caught:
        IndexModel({**values, name: "0" * 64}, folder)
    assert caught.value.file == file


def test_prompts_of_different_lengths_share_a_batch(parameters, engine, questions):
    model = EncoderModel(*parameters("encoder"))
    prepared = [engine.prepare(question) for question in questions[:6]]
    wanted = engine.embed(prepared)
    requests = []
    for query in prepared:
        ids, mask = engine.tokenizer.pad([query.tokens])
        requests.append({"pixels": query.pixels[None], "token_ids": ids, "token_mask": mask})
    assert len({one["token_ids"].shape for one in requests}) > 1
    found = np.concatenate([outcome["embedding"] for outcome in model.run(requests)])
    assert found == pytest.approx(wanted, abs=1e-6)


def test_ids_and_mask_must_agree(parameters, engine, questions):
    model = EncoderModel(*parameters("encoder"))
    pixels = engine.prepare(questions[0]).pixels[None]
    good = {
        "pixels": pixels,
        "token_ids": np.zeros((1, 1), np.int64),
        "token_mask": np.zeros((1, 1), np.int64),
    }
    wrong, right = model.run([{**good, "token_mask": np.zeros((1, 2), np.int64)}, good])
    assert isinstance(wrong, InvalidArgumentError)
    assert right["embedding"].shape == (1, engine.spec.dim)


class FakeUtils:
    """As much of triton_python_backend_utils as a host uses."""

    class TritonError:
        INVALID_ARG, CANCELLED = "invalid", "cancelled"

        def __init__(self, text, code):
            self.text, self.code = text, code

    class Tensor(SimpleNamespace):
        def __init__(self, name, array):
            super().__init__(name=name, array=array)

        @classmethod
        def from_dlpack(cls, name, array):
            return cls(name, np.from_dlpack(array))

    @staticmethod
    def InferenceResponse(tensors=(), error=None):  # noqa: N802
        return SimpleNamespace(tensors={tensor.name: tensor.array for tensor in tensors}, error=error)

    @staticmethod
    def get_input_tensor_by_name(request, name):
        array = request.tensors.get(name)
        return None if array is None else SimpleNamespace(as_numpy=lambda: array)


class Doubling:
    inputs = ("x", "maybe")

    def __init__(self, parameters, folder):
        self.factor, self.seen = int(parameters["factor"]), []

    def run(self, requests):
        self.seen.append(len(requests))
        return [
            InvalidArgumentError("x", "must not be negative")
            if one["x"].min() < 0
            else {"y": self.factor * one["x"]}
            for one in requests
        ]


@pytest.mark.parametrize("numpy_2", [False, True])
def test_host_answers_in_order_and_skips_the_cancelled(tmp_path, numpy_2, monkeypatch):
    monkeypatch.setattr(host, "_NUMPY_2", numpy_2)
    config = json.dumps({"parameters": {"factor": {"string_value": "2"}}})
    args = {"model_config": config, "model_repository": str(tmp_path), "model_version": "1"}
    made = host.Host(FakeUtils, args, Doubling)

    def request(value, cancelled=False):
        return SimpleNamespace(tensors={"x": np.array([value])}, is_cancelled=lambda: cancelled)

    replies = made.execute([request(1), request(5, cancelled=True), request(-1), request(3)])
    assert [reply.error.code if reply.error else int(reply.tensors["y"][0]) for reply in replies] == [
        2, "cancelled", "invalid", 6,
    ]  # fmt: skip
    assert replies[2].error.text == "x: must not be negative"
    assert made._model.seen == [3]
    made.execute([request(5, cancelled=True)])
    assert made._model.seen == [3]
