"""A server whose candidates come from Milvus: same answers, and what callers see when Milvus is away."""

import json
import subprocess
import sys
import time

import pytest
from milvus_lite.adapter.grpc.server import start_server_in_thread

from attributary.attribution.open import open_engine
from attributary.attribution.types import Filter as CoreFilter
from attributary.attribution.types import Options, Query
from attributary.cli.process import ServerProcess
from attributary.client import Client, Filter
from attributary.errors import DeadlineError, UnavailableError


def cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "attributary.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """[server, its URL, its directory]: the server may be stopped and replaced."""
    directory = str(tmp_path_factory.mktemp("milvus") / "lite.db")
    server, database, port = start_server_in_thread(directory)
    running = [server, database, f"http://127.0.0.1:{port}", directory]
    yield running
    running[0].stop(0)
    running[1].close()


def test_push_status_serve_and_survive(lite, tiny_bundle_dir, picture):
    uri = lite[2]
    told = cli("index", "push", tiny_bundle_dir, "--milvus-uri", uri)
    assert told.returncode == 0, told.stderr
    assert "300 items, 300 sent now, FLAT" in told.stdout
    assert "milvus-lite has no IVF_PQ" in told.stderr
    status = json.loads(cli("index", "status", tiny_bundle_dir, "--milvus-uri", uri).stdout)
    assert (status["items"], status["golden_recall"]) == (300, 1.0)

    engine = open_engine(tiny_bundle_dir)
    with (
        ServerProcess(
            tiny_bundle_dir, "--index", "milvus", "--milvus-uri", uri, "--milvus-timeout-s", "2"
        ) as server,
        Client(server.address, retry=False, timeout_s=20) as client,
    ):
        for number in range(5):
            served = client.attribute(picture(number), top_k=7)
            direct = engine.attribute(Query(image=picture(number)), Options(top_k=7))
            assert [item.id for item in served.items] == [item.id for item in direct.items]
            assert served.diffuse_share == pytest.approx(direct.diffuse_share, abs=1e-5)
        served = client.attribute(picture(1), top_k=7, filter=Filter(exclude_creators=("Bo",)))
        options = Options(top_k=7, filter=CoreFilter(exclude_creators=("Bo",)))
        direct = engine.attribute(Query(image=picture(1)), options)
        assert [item.id for item in served.items] == [item.id for item in direct.items]

        lite[0].stop(0).wait()
        lite[1].close()
        with pytest.raises((UnavailableError, DeadlineError)):
            client.attribute(picture(0), timeout_s=0.5)
        with pytest.raises(UnavailableError, match="index behind this server is away") as caught:
            client.attribute(picture(0))
        assert "127.0.0.1" not in str(caught.value)
        # Back at the same address: the next queries are answered without a restart.
        lite[0], lite[1], _ = start_server_in_thread(lite[3], port=int(uri.rsplit(":", 1)[1]))
        for _attempt in range(100):
            try:
                assert client.attribute(picture(0)).items[0].id == 1000
                break
            except UnavailableError:
                time.sleep(0.2)
        else:
            pytest.fail("the server did not find Milvus again")


def test_serving_a_bundle_that_was_never_pushed_stops_with_one_line(tmp_path, tiny_bundle_dir):
    told = cli(
        "serve", tiny_bundle_dir, "--port", "0", "--index", "milvus", "--milvus-uri", tmp_path / "empty.db"
    )
    assert told.returncode == 2
    assert told.stderr.startswith("attributary: bundle file index (Milvus collection attributary_")
    assert "attributary index push" in told.stderr


def test_milvus_and_triton_exclude_each_other(tiny_bundle_dir):
    told = cli("serve", tiny_bundle_dir, "--engine", "triton", "--index", "milvus")
    assert told.returncode == 2
    assert "index: milvus needs --engine embedded" in told.stderr


def test_drop_must_name_what_it_drops(tmp_path):
    told = cli("index", "drop", "--milvus-uri", tmp_path / "empty.db")
    assert (told.returncode, "milvus_collection" in told.stderr) == (2, True)
