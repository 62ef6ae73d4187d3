"""A new bundle under load: no failed request; a damaged one: the old goes on."""

import re
import shutil

import pytest
import tritonclient.grpc

from attributary.attribution.open import open_engine
from attributary.errors import BundleError, InvalidArgumentError, NotFoundError
from attributary.triton.materialize import Settings, materialize, remove, served_bundle
from attributary.triton.swap import Control, swap

from .test_faults import Load, until


@pytest.fixture(params=["python", "faiss"])
def backend(request, faiss_backend):
    if request.param == "faiss" and faiss_backend is None:
        pytest.skip("libtriton_faiss.so is not built")
    return request.param


@pytest.fixture
def settings(backend):
    return Settings(encoder_instances=1, index_backend=backend)


@pytest.fixture
def own_repository(tiny_bundle_dir, tmp_path, settings):
    materialize(tiny_bundle_dir, tmp_path / "repository", settings)
    return tmp_path / "repository"


@pytest.fixture
def own_triton(own_repository, start_triton):
    with start_triton(own_repository) as server:
        yield server


@pytest.fixture
def control(own_triton):
    made = Control(own_triton.grpc_address)
    yield made
    made.close()


def test_a_new_bundle_under_load(
    own_triton, own_repository, control, settings, start_gateway, questions, engine, other_bundle_dir
):
    old, new = engine.bundle.manifest.bundle_id, open_engine(other_bundle_dir).bundle.manifest.bundle_id
    with start_gateway(own_triton) as gateway:
        with Load(gateway, questions[0], callers=4) as load:
            until(lambda: load.answers > 20)
            assert load.bundles == {old}
            assert (
                swap(own_triton.grpc_address, other_bundle_dir, own_repository, settings, retire_after_s=2.0)
                == new
            )
            until(lambda: new in load.bundles)
            load.bundles.clear()
            until(lambda: load.bundles)
            before = load.answers
            until(lambda: load.answers > before + 20)
        assert load.errors == []
        assert load.bundles <= {old, new}
        with gateway.client() as client:
            answer = client.attribute(questions[0].pixels, top_k=5)
            assert answer.bundle_id == new
            wanted = open_engine(other_bundle_dir).attribute(questions[0])
            assert [item.id for item in answer.items] == [item.id for item in wanted.items][:5]
            with pytest.raises(NotFoundError):
                client.get_item(1200)
    found = control.loaded()
    assert (found.bundles, found.served) == (frozenset({new}), new)
    assert sorted(path.name for path in own_repository.iterdir()) == sorted(
        ["attribution", "index", "encoder", f"attribution_{new}", f"index_{new}", f"encoder_{new}"]
    )


def test_direct_callers_of_the_aliases_see_no_gap(
    own_triton, own_repository, settings, engine, questions, other_bundle_dir, ask, tensors
):
    import threading

    prepared = [engine.prepare(questions[0])]
    inputs = tensors(prepared, engine.tokenizer)
    failures, bundles, stop = [], [], threading.Event()

    def caller():
        with tritonclient.grpc.InferenceServerClient(own_triton.grpc_address) as client:
            while not stop.is_set():
                try:
                    reply = ask(tritonclient.grpc, client, "attribution", inputs)
                    bundles.append(f"{reply.as_numpy('bundle')[0, 0]:016x}")
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=caller) for _ in range(3)]
    for thread in threads:
        thread.start()
    new = swap(own_triton.grpc_address, other_bundle_dir, own_repository, settings, retire_after_s=0.5)
    until(lambda: bundles and bundles[-1] == new)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert set(bundles) == {engine.bundle.manifest.bundle_id, new}


def test_a_bundle_that_is_damaged_after_it_was_verified(
    own_triton, own_repository, control, settings, start_gateway, questions, engine, other_bundle_dir,
    tmp_path, monkeypatch,
):  # fmt: skip
    old = engine.bundle.manifest.bundle_id
    with start_gateway(own_triton) as gateway, Load(gateway, questions[0], callers=2) as load:
        for file in ("index.faiss", "vectors.npy", "encoder.onnx"):
            damaged = tmp_path / file
            shutil.copytree(other_bundle_dir, damaged)

            def then_damage(*arguments, path=damaged / file):
                bundle_id = materialize(*arguments)
                path.write_bytes(path.read_bytes()[:-1000])
                return bundle_id

            monkeypatch.setattr("attributary.triton.swap.materialize", then_damage)
            with pytest.raises(BundleError, match=re.escape(file)):
                swap(own_triton.grpc_address, damaged, own_repository, settings, retire_after_s=0.0)
            before = load.answers
            until(lambda before=before: load.answers > before + 10)
            assert control.loaded().served == old
    assert load.errors == []
    assert load.bundles == {old}
    # A server that is started again finds the old one too.
    assert served_bundle(own_repository) == old


def test_an_unverified_bundle_is_not_even_written(
    own_triton, own_repository, control, settings, tmp_path, other_bundle_dir
):
    changed = tmp_path / "changed"
    shutil.copytree(other_bundle_dir, changed)
    data = bytearray((changed / "vectors.npy").read_bytes())
    data[-1] ^= 1
    (changed / "vectors.npy").write_bytes(data)
    before = sorted(own_repository.rglob("*"))
    served = control.loaded()
    with pytest.raises(BundleError, match=re.escape("vectors.npy")):
        swap(own_triton.grpc_address, changed, own_repository, settings)
    assert sorted(own_repository.rglob("*")) == before
    assert control.loaded() == served


def test_what_is_served_cannot_be_removed(repository, engine):
    with pytest.raises(InvalidArgumentError, match="load another"):
        remove(repository, engine.bundle.manifest.bundle_id)
