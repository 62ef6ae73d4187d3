"""A real tritonserver, once a session, on a repository made of the tiny bundle; and what speaks to it."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="needs attributary[triton]")

from attributary.attribution.open import open_engine
from attributary.attribution.types import Query
from attributary.building import build_bundle
from attributary.client import Client
from attributary.errors import UnavailableError
from attributary.triton.materialize import Settings, materialize
from tritonserver.install import find
from tritonserver.server import Ports, TritonServer

ROOT = Path(__file__).parents[2]
FREE = Ports(grpc=0, http=0, metrics=0)
TYPES = {
    "pixels": "UINT8",
    "token_ids": "INT64",
    "token_mask": "INT64",
    "embedding": "FP32",
    "filter": "UINT8",
}


@pytest.fixture(scope="session")
def installation():
    """A tritonserver; skips with the reason where none can be had."""
    try:
        return find()
    except UnavailableError as error:
        pytest.skip(f"no tritonserver: {error}")


@pytest.fixture(scope="session")
def faiss_backend():
    """The C++ backend's library, if it has been built."""
    named = os.environ.get("ATTRIBUTARY_FAISS_BACKEND")
    found = [Path(named)] if named else sorted(ROOT.glob("build/**/faiss/libtriton_faiss.so"))
    return found[0] if found else None


@pytest.fixture(scope="session")
def start_triton(installation, faiss_backend):
    """`with start_triton(repository) as server`: ready when entered."""
    return lambda repository, **settings: TritonServer(
        repository,
        installation=installation,
        **{"ports": FREE, "faiss_backend": faiss_backend, "exit_s": 0.2, **settings},
    )


@pytest.fixture(scope="session")
def engine(tiny_bundle_dir):
    """The embedded engine on the same bundle: the oracle."""
    return open_engine(tiny_bundle_dir)


@pytest.fixture(scope="session")
def other_bundle_dir(tiny, tmp_path_factory) -> Path:
    """A bundle of another encoder and fewer items: its dimensions are the same, its rows are not."""
    folder = tmp_path_factory.mktemp("other")
    build_bundle(
        tiny.draw_corpus(folder / "corpus", 120), tiny.write_encoder(folder / "encoder", seed=5), folder / "bundle",
        probes=50, workers=2,
    )  # fmt: skip
    return folder / "bundle"


@pytest.fixture(scope="session")
def repository(tiny_bundle_dir, tmp_path_factory) -> Path:
    """The tiny bundle with the Python index; never changed."""
    out = tmp_path_factory.mktemp("repository") / "python"
    materialize(tiny_bundle_dir, out, Settings(encoder_instances=1))
    return out


@pytest.fixture(scope="session")
def triton(repository, start_triton):
    """A running tritonserver for every test that leaves it as it was."""
    with start_triton(repository) as server:
        yield server


@pytest.fixture(scope="session", params=["python", "faiss"])
def indexed(request, tiny_bundle_dir, tmp_path_factory, start_triton, faiss_backend):
    """A running tritonserver with each implementation of the index in turn."""
    if request.param == "python":
        return request.getfixturevalue("triton")
    if faiss_backend is None:
        pytest.skip("libtriton_faiss.so is not built (cmake -DATTRIBUTARY_TRITON=ON)")
    out = tmp_path_factory.mktemp("repository") / "faiss"
    materialize(tiny_bundle_dir, out, Settings(encoder_instances=1, index_backend="faiss"))
    server = start_triton(out)
    server.__enter__()
    request.addfinalizer(server.stop)
    return server


class Gateway:
    """`attributary serve --engine triton` in a process of its own."""

    def __init__(self, bundle, address, *flags):
        command = [sys.executable, "-m", "attributary.cli.main", "serve", str(bundle), "--engine", "triton"]
        command += [
            "--triton-url",
            address,
            "--port",
            "0",
            "--metrics-port",
            "0",
            "--remote-poll-s",
            "0.2",
            *flags,
        ]
        # A file and not a pipe: nobody reads it meanwhile.
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(self.log.read())
        ready = json.loads(line)
        self.address, self.metrics_port = f"127.0.0.1:{ready['port']}", ready["metrics_port"]

    def client(self, **settings):
        return Client(self.address, **{"retry": False, "timeout_s": 20, **settings})

    def close(self):
        self.process.terminate()
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="session")
def start_gateway(tiny_bundle_dir):
    """`with start_gateway(server, *flags) as gateway`."""

    def start(server, *flags, bundle=tiny_bundle_dir):
        return contextlib.closing(Gateway(bundle, server.grpc_address, *flags))

    return start


@pytest.fixture(scope="session")
def gateway(triton, start_gateway):
    """A gateway on the shared tritonserver."""
    with start_gateway(triton) as running:
        yield running


@pytest.fixture(scope="session")
def questions(picture):
    """200 queries: every other picture cropped, noisy, with one of several prompts or none."""
    from attributary.pictures import decode

    rng = np.random.default_rng(11)
    prompts = itertools.cycle(["", "a red ellipse", "", "blue rectangle of a green ellipse", "purple"])
    made = []
    for number in range(200):
        pixels = decode(picture(number), max_bytes=1 << 20, max_pixels=1 << 20, field="picture").astype(
            np.int16
        )
        pixels = pixels[number % 7 :, : 64 - number % 5]
        pixels = pixels + rng.integers(-12, 13, pixels.shape)
        made.append(Query(pixels=pixels.clip(0, 255).astype(np.uint8), prompt=next(prompts)))
    return made


@pytest.fixture(scope="session")
def expected(engine, questions):
    """What the embedded engine answers."""
    return [engine.attribute(query) for query in questions]


def tensors_of(prepared, tokenizer, *, embeddings=None):
    """The inputs of `attribution`, or of `index` if embeddings are given, for prepared queries."""
    if embeddings is not None:
        return {"embedding": embeddings}
    ids, mask = tokenizer.pad([query.tokens for query in prepared])
    return {
        "pixels": np.stack([query.pixels for query in prepared]),
        "token_ids": ids,
        "token_mask": mask,
    }


def inputs_of(module, tensors):
    """InferInput objects of tritonclient.grpc or tritonclient.http."""
    made = []
    for name, array in tensors.items():
        made.append(module.InferInput(name, list(array.shape), TYPES[name]))
        made[-1].set_data_from_numpy(array)
    return made


@pytest.fixture(scope="session")
def ask():
    """Function: (tritonclient module, client, model, tensors) -> result."""
    return lambda module, client, model, tensors: client.infer(model, inputs_of(module, tensors))


@pytest.fixture(scope="session")
def tensors():
    """Function: see `tensors_of`."""
    return tensors_of
