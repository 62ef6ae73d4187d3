"""The backend inside a real tritonserver finds what the embedded engine finds and refuses what it must."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import triton_faiss_models as models  # by conftest.py

OUTPUTS = ("row", "similarity", "bundle", "timing")
TYPES = {np.float32: "FP32", np.uint8: "UINT8"}


def inputs(count=1, seed=77, bitmap=None, **changed):
    """The tensors of one request; `bitmap` is one for all its queries, or one a query."""
    tensors = {"embedding": models.queries(count, seed)}
    if bitmap is not None:
        tensors["filter"] = np.broadcast_to(bitmap, (count, np.shape(bitmap)[-1]))
    return {name: np.ascontiguousarray(array) for name, array in (tensors | changed).items()}


def ask(client, model, tensors, outputs=OUTPUTS):
    import tritonclient.grpc as triton

    asked = []
    for name, array in tensors.items():
        tensor = triton.InferInput(name, list(array.shape), TYPES[array.dtype.type])
        tensor.set_data_from_numpy(array)
        asked.append(tensor)
    wanted = None if outputs is None else [triton.InferRequestedOutput(name) for name in outputs]
    reply = client.infer(model, asked, outputs=wanted)
    return {output.name: reply.as_numpy(output.name) for output in reply.get_response().outputs}


def refusal(client, model, tensors):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as caught:
        ask(client, model, tensors)
    return caught.value.status(), caught.value.message()


def embedded(repository, kind):
    return models.Embedded(repository.parent / kind, kind)


def bitmap_of(passing):
    return np.packbits(passing, bitorder="little")


def some(share, seed=1):
    return np.random.default_rng(seed).random(models.ITEMS) < share


def same(found, wanted):
    """Equal but for the last bits of a similarity, which each instruction set sums in its own order."""
    np.testing.assert_allclose(found["similarity"], wanted["similarity"], atol=2e-6)
    np.testing.assert_array_equal(found["bundle"], wanted["bundle"])
    swapped = np.nonzero(found["row"] != wanted["row"])
    # Neighbours may swap where their similarities tie.
    for q in set(swapped[0].tolist()):
        assert set(found["row"][q].tolist()) == set(wanted["row"][q].tolist())
    assert len(swapped[0]) <= 0.01 * found["row"].size
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_equals_the_embedded_engine(client, repository, kind, count) -> None:
    tensors = inputs(count, seed=count)
    found = ask(client, f"index_{kind}", tensors)
    same(found, embedded(repository, kind).run(tensors))
    assert found["row"].shape == (count, models.CANDIDATES)
    assert found["timing"].shape == (count, 3)


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("share", [0.5, 0.05])
def test_a_filter_restricts_the_search(client, kind, share) -> None:
    passing = some(share)
    tensors = inputs(8, bitmap=bitmap_of(passing))
    found = ask(client, f"index_{kind}", tensors)
    assert (found["row"] >= 0).all()
    assert passing[found["row"]].all()
    # An exact search over what passes; codes lose a few of the neighbours.
    stored = models.vectors().astype(np.float32)
    exact = np.argsort(-np.where(passing, tensors["embedding"] @ stored.T, -9), axis=1)[:, :10]
    hits = [np.isin(exact[q], found["row"][q]).mean() for q in range(8)]
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize("kind", ["flat", "ivfpq"])
@pytest.mark.parametrize("share", [0.5, 0.02])
def test_a_filtered_answer_equals_the_embedded_engine_s(client, repository, kind, share) -> None:
    tensors = inputs(8, bitmap=bitmap_of(some(share)))
    same(ask(client, f"index_{kind}", tensors), embedded(repository, kind).run(tensors))


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("count", [0, 1, 20, models.CANDIDATES])
def test_no_item_that_passes_is_missed(client, kind, count) -> None:
    rows = np.sort(np.random.default_rng(count).choice(models.ITEMS, count, replace=False))
    passing = np.zeros(models.ITEMS, bool)
    passing[rows] = True
    found = ask(client, f"index_{kind}", inputs(2, bitmap=bitmap_of(passing)))
    for row, similarity in zip(found["row"], found["similarity"], strict=True):
        np.testing.assert_array_equal(np.sort(row[:count]), rows)
        assert (row[count:] == -1).all()
        assert (similarity[count:] == 0).all()


def test_a_filtered_search_finds_as_many_as_pass(client) -> None:
    # More pass than R, but they lie in few of the lists: the search must go on until R are found.
    stored = models.vectors().astype(np.float32)
    passing = np.zeros(models.ITEMS, bool)
    passing[np.argsort(stored @ models.queries(1)[0])[:400]] = True
    for kind in models.KINDS:
        found = ask(client, f"index_{kind}", inputs(1, bitmap=bitmap_of(passing)))["row"]
        assert (found >= 0).all(), kind


def test_bits_beyond_the_last_row_mean_nothing(client) -> None:
    passing = np.zeros(models.ITEMS, bool)
    passing[:3] = True
    bitmap = bitmap_of(passing)
    bitmap[-1] |= 0b11111110
    for kind in models.KINDS:
        found = ask(client, f"index_{kind}", inputs(1, bitmap=bitmap))["row"][0]
        assert sorted(found[:3].tolist()) == [0, 1, 2]
        assert (found[3:] == -1).all()


def test_an_empty_filter_is_none(client) -> None:
    plain = ask(client, "index_fastscan", inputs(3))
    empty = ask(client, "index_fastscan", inputs(3, bitmap=np.zeros((3, 0), np.uint8)))
    np.testing.assert_array_equal(plain["row"], empty["row"])


def test_only_what_is_asked_for_comes_back(client) -> None:
    assert set(ask(client, "index_flat", inputs(2), ("row", "bundle"))) == {"row", "bundle"}
    assert set(ask(client, "index_flat", inputs(2), None)) == set(OUTPUTS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bitmap": np.zeros((1, 5), np.uint8)}, "filter: must have 501 bytes or none, got 5"),
        (
            {"embedding": np.zeros((1, models.DIM), np.float32)},
            "embedding: row 0 must be finite and of length 1, is 0",
        ),
        (
            {"embedding": np.full((1, models.DIM), np.nan, np.float32)},
            "embedding: row 0 must be finite and of length 1, is nan",
        ),
        (
            {"embedding": np.full((1, models.DIM), 3e38, np.float32)},
            "embedding: row 0 must be finite and of length 1, is 2.4e+39",
        ),
    ],
)
def test_wrong_input_is_named(client, changed, message) -> None:
    status, told = refusal(client, "index_fastscan", inputs(1, **changed))
    assert "INVALID_ARGUMENT" in status
    assert message in told
    assert ask(client, "index_fastscan", inputs(1))["row"][0, 0] >= 0


def test_wrong_input_fails_its_own_request_only(client, repository) -> None:
    alone = embedded(repository, "fastscan")
    good = [inputs(1 + seed % 3, seed=seed) for seed in range(12)]
    bad = [
        inputs(2, embedding=np.ones((2, models.DIM), np.float32)),
        inputs(1, bitmap=np.zeros((1, 3), np.uint8)),
    ]

    def outcome(tensors):
        from tritonclient.utils import InferenceServerException

        try:
            return ask(client, "index_fastscan", tensors)
        except InferenceServerException as error:
            return error.message()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(outcome, [*good, *bad * 4]))
    for tensors, answer in zip(good, answers[: len(good)], strict=True):
        same(answer, alone.run(tensors))
    # Or this test would prove nothing: some did share a batch with others.
    assert shared(good, answers[: len(good)]) > 0
    assert all("must" in answer for answer in answers[len(good) :])


def shared(asked, answers):
    """How many of the requests were answered in a batch with others."""
    return sum(
        int(answer["timing"][0, 2] > len(tensors["embedding"]))
        for tensors, answer in zip(asked, answers, strict=True)
    )


@pytest.mark.parametrize("kind", models.KINDS)
def test_an_answer_does_not_depend_on_batch_mates(client, kind) -> None:
    bitmaps = (None, bitmap_of(some(0.5)), bitmap_of(some(0.01)), bitmap_of(some(0)))
    rng = np.random.default_rng(3)
    asked = [
        inputs(int(rng.integers(1, 6)), seed=seed, bitmap=bitmaps[rng.integers(len(bitmaps))])
        for seed in range(24)
    ]
    alone = [ask(client, f"index_{kind}", tensors) for tensors in asked]
    assert shared(asked, alone) == 0
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda tensors: ask(client, f"index_{kind}", tensors), asked))
    assert shared(asked, together) > 0
    for one, other in zip(alone, together, strict=True):
        for name in ("row", "similarity", "bundle"):
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_statistics_are_reported(client) -> None:
    def counts():
        stats = client.get_inference_statistics("index_rotated", as_json=True)["model_stats"][0][
            "inference_stats"
        ]
        # Zeros are left out of JSON.
        return [
            int(stats.get(part, {}).get(key, 0))
            for part, key in (("success", "count"), ("fail", "count"), ("compute_infer", "ns"))
        ]

    before = counts()
    ask(client, "index_rotated", inputs(3))
    refusal(client, "index_rotated", inputs(1, bitmap=np.zeros((1, 5), np.uint8)))
    for _ in range(100):
        # They are reported after the reply has been sent.
        success, fail, compute = (now - then for now, then in zip(counts(), before, strict=True))
        if success and fail:
            break
        time.sleep(0.05)
    assert (success, fail) == (1, 1)
    assert compute > 0


def damage(folder: Path, part: str) -> None:
    path = folder / part
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x40
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({'"nprobe" value { string_value: "4"': '"nprobe" value { string_value: "33"'}, "parameters.nprobe"),
        ({'"nprobe" value { string_value: "4"': '"nprobe" value { string_value: "x"'}, "parameters.nprobe"),
        (
            {f'"items" value {{ string_value: "{models.ITEMS}"': '"items" value { string_value: "4000"'},
            "index.faiss",
        ),
        ({'key: "candidates"': 'key: "other"'}, "parameters.candidates: is missing"),
        ({"kind: KIND_CPU count: 1": "kind: KIND_CPU count: 2"}, "instance_group"),
        ({"kind: KIND_CPU": "kind: KIND_GPU"}, ""),
    ],
)
def test_a_model_that_cannot_serve_is_refused(client, repository, edit, message) -> None:
    from tritonclient.utils import InferenceServerException

    values = models.write_bundle(repository.parent / "refused", "ivfpq")
    models.write_model(repository, "index_refused", values, edit)
    try:
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("index_refused")
        assert message in caught.value.message()
        assert not client.is_model_ready("index_refused")
    finally:
        shutil.rmtree(repository / "index_refused")
        shutil.rmtree(repository.parent / "refused")


@pytest.mark.parametrize("part", ["index.faiss", "vectors.npy", "absent"])
def test_a_failing_reload_leaves_the_old_model_serving(client, repository, part) -> None:
    from tritonclient.utils import InferenceServerException

    bundle = repository.parent / "reloaded"
    try:
        values = models.write_bundle(bundle, "fastscan")
        models.write_model(repository, "index_reloaded", values)
        client.load_model("index_reloaded")
        before = ask(client, "index_reloaded", inputs(4))
        shutil.rmtree(bundle)
        values = models.write_bundle(bundle, "fastscan", seed=6)
        if part == "absent":
            (bundle / "vectors.npy").unlink()
            values["bundle_id"] = "0" * 16
        else:
            damage(bundle, part)
        if part == "absent":
            np.save(bundle / "other.npy", np.zeros(1))
        models.write_model(repository, "index_reloaded", values)
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("index_reloaded")
        assert ("vectors.npy" if part == "absent" else part) in caught.value.message()
        after = ask(client, "index_reloaded", inputs(4))
        same(after, before)
        # A good one then takes over.
        shutil.rmtree(bundle)
        models.write_model(repository, "index_reloaded", models.write_bundle(bundle, "fastscan", seed=6))
        client.load_model("index_reloaded")
        assert (ask(client, "index_reloaded", inputs(4))["bundle"] != before["bundle"]).all()
    finally:
        client.unload_model("index_reloaded")
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.rmtree(repository / "index_reloaded", ignore_errors=True)
