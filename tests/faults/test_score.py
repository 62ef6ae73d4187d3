"""`score` under kill -9, full disks, read-only places and damaged files."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def log(tmp_path_factory, picture) -> Path:
    """40 rows in a Parquet file."""
    directory = tmp_path_factory.mktemp("log")
    table = {
        "generation_id": [f"g-{number}" for number in range(40)],
        "image": pa.array([picture(number) for number in range(40)], pa.binary()),
        "prompt": ["a red ellipse" if number % 2 else None for number in range(40)],
    }
    pq.write_table(pa.table(table), directory / "log.parquet")
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def cli(*arguments, before=None, **settings):
    command = [sys.executable, "-m", "attributary.cli.main", "score", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, preexec_fn=before, **settings
    )


@pytest.mark.timeout(2_000)
@pytest.mark.parametrize(
    "seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_killed_at_twenty_points_a_run_still_ends_the_same(log, tiny_bundle_dir, tmp_path, seed, tally):
    asked = {
        "log": str(log), "bundle": str(tiny_bundle_dir), "work": str(tmp_path),
        "rows_per_shard": 6, "seed": seed, "count": 20,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "score_faults.py"), json.dumps(asked)],
        capture_output=True, text=True, check=False, timeout=1_800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["points"] > 50
    assert told["kills"] > 10
    whole = contents(tmp_path / "whole")
    assert len(whole) == 7 + 4
    for number, result in enumerate(told["results"]):
        assert result["killed"], result
        lost = max(0, result["acknowledged"] - result["committed"])
        tally("kill -9 of a run over a log (rows)", sent=1, admitted=result["acknowledged"], lost=lost)
        # What was told is on the disk; at most what was committed and not told yet comes on top.
        assert result["acknowledged"] <= result["committed"], result
        assert result["resumed"] == 0, (result, done.stderr)
        assert contents(tmp_path / f"run-{number}") == whole, result
    assert contents(tmp_path / "again") == whole
    # The points were of all kinds: with nothing written, with something, with a torn write left behind.
    assert len({result["committed"] for result in told["results"]}) > 3
    assert any(result["unfinished"] for result in told["results"])


def test_killed_at_any_moment_by_the_operating_system(log, tiny_bundle_dir, tmp_path):
    """The whole command, killed from outside while it computes, then run again."""
    arguments = (log, "--bundle", tiny_bundle_dir, "--out", tmp_path / "run", "--rows-per-shard", 2)
    command = [sys.executable, "-m", "attributary.cli.main", "score", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "run").glob("shards/shard-*")):
        pass
    process.kill()
    process.wait()
    assert cli(*arguments).returncode == 0
    whole = tmp_path / "whole"
    assert cli(*arguments[:-3], whole, *arguments[-2:]).returncode == 0
    assert contents(tmp_path / "run") == contents(whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    ) if os.geteuid() == 0 else None  # fmt: skip
    if made is None or made.returncode != 0:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(log, tiny_bundle_dir, tmp_path, small_disk):
    arguments = (log, "--bundle", tiny_bundle_dir, "--rows-per-shard", 3)
    failed = cli(*arguments, "--out", small_disk / "run")
    assert failed.returncode == 2
    assert "No space left on device; make room and run the same command again" in failed.stderr
    assert "Traceback" not in failed.stderr
    there = contents(small_disk / "run")
    assert 1 <= sum(name.startswith("shards") for name in there) < 14
    assert not [name for name in there if name.endswith(".tmp")]
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = cli(*arguments, "--out", small_disk / "run")
    assert again.returncode == 0, again.stderr
    assert cli(*arguments, "--out", tmp_path / "whole").returncode == 0
    assert contents(small_disk / "run") == contents(tmp_path / "whole")


def test_a_file_size_limit_is_told_like_a_full_disk(log, tiny_bundle_dir, tmp_path):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # noqa: E731
    failed = cli(log, "--bundle", tiny_bundle_dir, "--out", tmp_path / "run", before=limit)
    assert failed.returncode == 2
    assert "output shards/shard-000000.parquet: cannot be written: File too large" in failed.stderr
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert cli(log, "--bundle", tiny_bundle_dir, "--out", tmp_path / "run").returncode == 0


def test_read_only_output(log, tiny_bundle_dir, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    failed = cli(log, "--bundle", tiny_bundle_dir, "--out", small_disk / "run")
    assert failed.returncode == 2
    assert "cannot be written: Read-only file system" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.999])
def test_truncated_log(log, tiny_bundle_dir, tmp_path, keep):
    data = (log / "log.parquet").read_bytes()
    size = int(len(data) * keep) if isinstance(keep, float) else keep
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(data[:size])
    from attributary.batch.plan import make_plan
    from attributary.batch.settings import Settings
    from attributary.errors import InputError

    with pytest.raises(InputError, match=r"input cut.parquet: its footer: cannot be read"):
        make_plan([cut], Settings())


@pytest.mark.parametrize("seed", range(12))
def test_bit_flips_in_a_log_never_crash_and_never_lose_a_row(log, tiny_bundle_dir, tmp_path, seed):
    """Each flip ends in one of two ways: an error that names the file, or a run with every row."""
    import random

    from attributary.attribution.open import open_engine
    from attributary.batch.job import score
    from attributary.batch.plan import make_plan
    from attributary.batch.scoring import EngineScorer
    from attributary.batch.settings import Settings
    from attributary.errors import InputError

    rng = random.Random(seed)
    data = bytearray((log / "log.parquet").read_bytes())
    for _ in range(3):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    flipped = tmp_path / "flipped.parquet"
    flipped.write_bytes(data)
    settings = Settings(rows_per_shard=6)
    try:
        plan = make_plan([flipped], settings)
        scorer = EngineScorer(open_engine(tiny_bundle_dir, verify=False), settings)
        result = score(plan, scorer, tmp_path / "run", workers=1)
    except InputError as error:
        assert error.file == "flipped.parquet"
        return
    assert result.summary["rows"] == plan.rows
    assert result.summary["answered"] + sum(result.summary["errors"].values()) == plan.rows
