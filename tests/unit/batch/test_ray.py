"""Ray: the same bytes as on one machine, whoever is killed; errors that arrive as they were raised."""

import inspect
import os
import pickle
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from attributary import errors
from attributary.batch.engines import ScorerSource
from attributary.batch.plan import make_plan
from attributary.batch.ray_runner import RayOptions, score_on_ray, stream
from attributary.batch.settings import Settings
from attributary.errors import AttributaryError, BundleError, InvalidArgumentError, RunError, UnavailableError

SMALL = Settings(rows_per_shard=8, batch_size=3)
ONE = RayOptions(actors=1)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of several processes on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for attempt in range(3):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                object_store_memory=256 << 20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
            break
        except Exception:
            # On a busy machine Ray gives its own processes up after 30 seconds.
            ray.shutdown()
            if attempt == 2:
                raise
    yield
    ray.shutdown()


@pytest.fixture
def run_ray(cluster, tiny_bundle_dir):
    """Function: (inputs, out, progress=..., max_error_rate=..., **settings) -> Result."""

    def run(inputs, out, *, progress=lambda counts: None, max_error_rate=1.0, **settings):
        settings = replace(SMALL, **settings)
        plan = make_plan([inputs], settings)
        source = ScorerSource(settings, tiny_bundle_dir)
        return score_on_ray(plan, source, out, ONE, max_error_rate=max_error_rate, progress=progress)

    return run


def kill_actor():
    """Kill one process that holds an engine, as the kernel would; its number."""
    for process in psutil.process_iter(["name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith("ray::MapWorker") or "MapWorker(MapBatches(_Worker))" in title:
            process.send_signal(signal.SIGKILL)
            return process.pid
    pytest.fail("no actor is there to be killed")


@pytest.fixture
def free_port():
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


# The job.


@pytest.mark.timeout(1_200)  # on a machine that is busy; else some ten seconds
def test_same_bytes_as_here_though_an_actor_is_killed_and_rows_cannot_be_scored(
    tmp_path, log, log_table, run_ray, run_score, contents
):
    broken = log_table(100, 9)
    pictures = broken["image"].to_pylist()
    pictures[2], pictures[5] = b"no picture", None
    place = broken.column_names.index("image")
    broken = broken.set_column(place, "image", [pictures])
    pq.write_table(broken, log / "c.parquet")
    here, there = tmp_path / "here", tmp_path / "there"
    run_score(log, here, batch_size=1)
    killed = []

    def kill(counts):
        if counts.rows and not killed:
            killed.append(kill_actor())

    result = run_ray(log, there, progress=kill, batch_size=1)
    assert killed
    assert contents(there) == contents(here)
    assert (result.counts.rows, result.counts.total, result.counts.errors) == (56, 56, 2)


@pytest.mark.slow
def test_same_bytes_as_here_with_batches_of_several_rows(tmp_path, log, run_ray, run_score, contents):
    run_score(log, tmp_path / "here")
    run_ray(log, tmp_path / "there")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.slow
def test_a_run_that_was_stopped_on_ray_is_finished_here(tmp_path, log, run_ray, run_score, contents):
    class StoppedError(Exception):
        pass

    def stop(counts):
        if counts.rows >= 16:
            raise StoppedError

    here, there = tmp_path / "here", tmp_path / "there"
    run_score(log, here)
    with pytest.raises(StoppedError):
        run_ray(log, there, progress=stop)
    assert not (there / "summary.json").exists()
    resumed = run_score(log, there).counts.resumed
    assert 16 <= resumed < 47
    assert contents(there) == contents(here)


@pytest.mark.slow
def test_the_error_rate_stops_the_run(tmp_path, log_table, run_ray):
    table = log_table(0, 120, image=[b"no picture"] * 120)
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(RunError, match="error rows") as caught:
        run_ray(tmp_path / "log.parquet", tmp_path / "out", max_error_rate=0.1)
    assert caught.value.setting == "max_error_rate"


@pytest.mark.slow
def test_an_actor_with_another_bundle_is_refused(tmp_path, log, run_ray, tiny_bundle_dir, monkeypatch):
    monkeypatch.setattr("attributary.batch.ray_runner.run_job", other_bundle(run_job_of()))
    with pytest.raises(RunError, match=r"an actor has bundle .* the run is about 0000000000000000"):
        run_ray(log, tmp_path / "out")


def run_job_of():
    from attributary.batch.job import run_job

    return run_job


def other_bundle(run_job):
    """The same job about a bundle that no actor has."""
    return lambda plan, bundle, out, runner: run_job(plan, replace(bundle, id="0" * 16), out, runner)


def test_a_bundle_that_is_not_there(tmp_path, log):
    source = ScorerSource(SMALL, tmp_path / "nowhere")
    with pytest.raises(BundleError, match="missing"):
        score_on_ray(make_plan([log], SMALL), source, tmp_path / "out", ONE)


# The stages.


def squares(numbers, unfold=None, make=None, options=ONE):
    unfold = unfold or (lambda number: [number])
    make = make or (lambda: lambda value: value * value)
    return list(stream(numbers, unfold, make, options))


@pytest.mark.slow
def test_every_part_once(cluster):
    assert sorted(squares([1, 2, 3], lambda number: range(number))) == [0, 0, 0, 1, 1, 4]
    assert squares([]) == []
    assert squares([5], lambda number: []) == []


@pytest.mark.slow
def test_parts_larger_than_a_block(cluster):
    found = list(stream([1, 2], lambda n: [bytes(9 << 20)] * n, lambda: len, ONE))
    assert found == [9 << 20] * 3


@pytest.mark.slow
def test_a_killed_actors_work_is_done_again_and_told_once(cluster):
    def make():
        import os
        import time

        def work(number):
            time.sleep(0.05)
            return number, os.getpid()

        return work

    found, killed = [], None
    for number, pid in stream(list(range(30)), lambda n: [n], make, ONE):
        found.append(number)
        if killed is None:
            killed = pid
            os.kill(pid, signal.SIGKILL)
        last = pid
    assert sorted(found) == list(range(30))
    assert last != killed


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["unfold", "make", "work"])
def test_errors_arrive_as_they_were_raised(cluster, stage):
    def fail(*_):
        raise InvalidArgumentError("top_k", f"is wrong in {stage}")

    unfold = fail if stage == "unfold" else None
    make = {"make": fail, "work": lambda: fail}.get(stage)
    with pytest.raises(InvalidArgumentError, match=f"top_k: is wrong in {stage}") as caught:
        squares([1], unfold, make)
    assert (caught.value.field, caught.value.message) == ("top_k", f"is wrong in {stage}")


@pytest.mark.slow
def test_a_defect_keeps_its_traceback(cluster):
    with pytest.raises(Exception, match="ZeroDivisionError"):
        squares([1], make=lambda: lambda value: value / 0)


ERRORS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, AttributaryError)
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_survives_the_way(kind):
    names = [
        name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "args", "kwargs")
    ]
    error = kind(*(f"{name} of it" for name in names)) if names else kind("what went wrong")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


# Options and clusters.


@pytest.mark.parametrize(
    ("field", "given"), [("ray_actors", {"actors": 0}), ("ray_gpus_per_actor", {"gpus_per_actor": -1})]
)
def test_wrong_options_name_the_field(field, given):
    with pytest.raises(InvalidArgumentError) as caught:
        RayOptions(**given)
    assert caught.value.field == field


@pytest.mark.slow
def test_no_gpu_in_the_cluster(cluster):
    with pytest.raises(UnavailableError, match="has 0 GPUs, an actor needs 1"):
        squares([1], options=RayOptions(gpus_per_actor=1))


@pytest.mark.slow
def test_a_stream_leaves_the_process_settings_alone(cluster):
    before = ray.data.DataContext.get_current().target_max_block_size
    squares([1])
    assert ray.data.DataContext.get_current().target_max_block_size == before
    assert ray.is_initialized()


# The command.


def cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "attributary.cli.main", "score", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("given", "field"), [(["--ray", "--workers", "2"], "workers"), (["--ray-actors", "2"], "ray_address")]
)
def test_options_that_exclude_each_other(tmp_path, log, tiny_bundle_dir, given, field):
    told = cli(log, "--bundle", tiny_bundle_dir, "--out", tmp_path / "out", *given)
    assert told.returncode == 2
    assert told.stderr.startswith(f"attributary: {field}: ")


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_the_command_with_a_cluster_of_its_own(tmp_path, log, tiny_bundle_dir, run_score, contents):
    given = ("--rows-per-shard", "8", "--batch-size", "3")
    told = cli(log, "--bundle", tiny_bundle_dir, "--out", tmp_path / "there", "--ray", *given)
    assert told.returncode == 0, told.stderr
    assert "47 rows, 0 error rows" in told.stdout
    run_score(log, tmp_path / "here")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_no_cluster_at_an_address(tmp_path, log, tiny_bundle_dir, free_port):
    told = cli(
        log,
        "--bundle",
        tiny_bundle_dir,
        "--out",
        tmp_path / "out",
        "--ray",
        "--ray-address",
        f"127.0.0.1:{free_port}",
    )
    assert told.returncode == 2
    assert f"no Ray cluster at 127.0.0.1:{free_port}" in told.stderr
