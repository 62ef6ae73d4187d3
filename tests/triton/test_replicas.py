"""A gateway in front of two tritonservers, of which either may be killed; and several bundles in Triton at once."""

import contextlib
import os
import signal

import pytest
import tritonclient.grpc

from attributary.client.admin import AdminClient
from attributary.errors import PreconditionError
from attributary.triton.materialize import Settings, materialize
from tritonserver.server import Ports

from .test_faults import Load, health, until

TOKEN = "s3cret"


@pytest.fixture
def admins(tmp_path):
    path = tmp_path / "admins"
    path.write_text(f"kim {TOKEN}\n")
    return ("--admin-tokens-file", str(path))


def inferences(server):
    """Requests that a Triton has answered since its start."""
    with tritonclient.grpc.InferenceServerClient(server.grpc_address) as client:
        return sum(model.inference_count for model in client.get_inference_statistics().model_stats)


def test_either_of_two_may_be_killed(start_triton, start_gateway, repository, questions, engine):
    with start_triton(repository) as one, start_triton(repository) as other:
        grpc_port = int(one.grpc_address.rpartition(":")[2])
        with start_gateway(one, "--triton-url", other.grpc_address) as gateway:
            until(lambda: health(gateway) == 1)
            with gateway.client() as client:
                expected = engine.attribute(questions[0])
                answer = client.attribute(questions[0].pixels, prompt=questions[0].prompt)
                assert [item.id for item in answer.items] == [item.id for item in expected.items]
                embedded = client.embed(questions[0].pixels, prompt=questions[0].prompt)
                again = client.attribute(embedding=embedded.vector, has_prompt=embedded.has_prompt)
                assert [item.id for item in again.items] == [item.id for item in answer.items]
            with contextlib.ExitStack() as stack:
                load = stack.enter_context(Load(gateway, questions[0], callers=3))
                until(lambda: load.answers > 20)
                os.kill(one.pid, signal.SIGKILL)
                until(lambda: load.answers > 60)
                back = start_triton(repository, ports=Ports(grpc=grpc_port, http=0, metrics=0))
                stack.callback(back.stop)
                back.start()
                back.wait_until_ready()
                # Beyond what a start itself asks of its models: the gateway has found it again.
                begun = inferences(back)
                until(lambda: inferences(back) > begun + 3)
                os.kill(other.pid, signal.SIGKILL)
                before = load.answers
                until(lambda: load.answers > before + 40)
                load.__exit__(None, None, None)
                assert load.errors == []


def test_another_bundle_in_the_same_triton(
    start_triton, start_gateway, tiny_bundle_dir, other_bundle_dir, tmp_path, admins, questions
):
    repository = tmp_path / "repository"
    settings = Settings(encoder_instances=1)
    other = materialize(other_bundle_dir, repository, settings)
    first = materialize(tiny_bundle_dir, repository, settings)
    with (
        start_triton(repository) as triton,
        start_gateway(triton, *admins, "--bundle-root", str(other_bundle_dir.parent)) as gateway,
        gateway.client() as client,
        AdminClient(gateway.address, token=TOKEN) as admin,
    ):
        until(lambda: health(gateway) == 1)
        loaded = admin.load_bundle("bundle", alias="other", why="beside")
        assert loaded.bundle_id == other
        for name, answers in (("", first), ("other", other), (other, other)):
            assert client.attribute(questions[0].pixels, bundle_id=name).bundle_id == answers
        with pytest.raises(PreconditionError, match="leads to what Triton serves"):
            admin.set_alias("default", "other", why="x")
        # Calls for a bundle that Triton does not have any more say so, and the default goes on.
        admin.unload_bundle("other", why="x", pinned_s=0)
        assert client.attribute(questions[0].pixels).bundle_id == first


def test_several_bundles_from_the_start(
    start_triton, start_gateway, tiny_bundle_dir, other_bundle_dir, tmp_path, questions
):
    repository = tmp_path / "repository"
    settings = Settings(encoder_instances=1)
    other = materialize(other_bundle_dir, repository, settings)
    first = materialize(tiny_bundle_dir, repository, settings)
    with (
        start_triton(repository) as triton,
        start_gateway(triton, f"b={other_bundle_dir}", bundle=f"a={tiny_bundle_dir}") as gateway,
        gateway.client() as client,
    ):
        until(lambda: health(gateway) == 1)
        assert client.attribute(questions[0].pixels).bundle_id == first

        def answered():
            try:
                return client.attribute(questions[0].pixels, bundle_id="b").bundle_id == other
            except Exception:
                return False

        until(answered)
