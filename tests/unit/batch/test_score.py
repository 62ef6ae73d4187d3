"""A run: what it writes, that it writes the same whatever happens, and what it refuses."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from attributary.attribution.types import Filter, Options, Query
from attributary.batch.plan import make_plan
from attributary.batch.rows import OWN_COLUMNS, BundleState
from attributary.batch.run import Run, shard_name, shard_tables
from attributary.batch.settings import Settings
from attributary.errors import InvalidArgumentError, OutputError, RunError, UnavailableError


def rows_of(directory):
    return [row for table in shard_tables(directory) for row in table.to_pylist()]


def test_one_row_a_generation_in_input_order(log, tmp_path, run_score):
    run_score(log, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert [row["generation_id"] for row in rows] == [f"g-{number}" for number in range(47)]
    assert [row["user"] for row in rows] == [number % 7 for number in range(47)]
    assert [row["prompt"] for row in rows[:3]] == ["a red ellipse", "a blue rectangle", None]
    assert {row["model_id"] for row in rows} == {"painter-1"}
    assert "image" not in rows[0]
    # Files of 30 and 17 rows in shards of 8: no shard crosses them.
    assert [len(table) for table in shard_tables(tmp_path / "run")] == [8, 8, 8, 6, 8, 8, 1]


def test_answers_are_the_engines(log, tmp_path, run_score, tiny_engine, picture):
    run_score(log, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    everybody = Options(10, tiny_engine.bundle.manifest.index.candidates)
    for number in (0, 11, 46):
        prompt = ("a red ellipse", "a blue rectangle", "")[number % 3]
        answer = tiny_engine.attribute(Query(image=picture(number), prompt=prompt), everybody)
        row = rows[number]
        assert [item["id"] for item in row["items"]] == [item.id for item in answer.items]
        assert [item["creator"] for item in row["items"]] == [item.creator for item in answer.items]
        assert [item["share"] for item in row["items"]] == pytest.approx(
            [item.share for item in answer.items], abs=1e-5
        )
        assert row["diffuse_share"] == pytest.approx(answer.diffuse_share, abs=1e-5)
        assert row["out_of_distribution"] == answer.out_of_distribution
        assert row["has_prompt"] == bool(prompt)
        assert row["bundle_id"] == tiny_engine.bundle.manifest.bundle_id
        # The picture is an item of the bundle.
        assert row["items"][0]["id"] == 1000 + number or row["items"][0]["similarity"] > 0.999


def test_creators_and_the_diffuse_share_sum_to_one(log, tmp_path, run_score):
    run_score(log, tmp_path / "run")
    for row in rows_of(tmp_path / "run"):
        total = sum(creator["share"] for creator in row["creators"]) + row["diffuse_share"]
        assert total == pytest.approx(1, abs=1e-5)
        assert all(creator["share"] > 0 for creator in row["creators"])


def test_totals_are_the_sums_of_the_rows(log, tmp_path, run_score):
    summary = run_score(log, tmp_path / "run").summary
    rows = rows_of(tmp_path / "run")
    by_hand, generations = Counter(), Counter()
    for row in rows:
        for creator in row["creators"]:
            by_hand[creator["creator"]] += creator["share"]
            generations[creator["creator"]] += 1
    totals = pq.read_table(tmp_path / "run" / "creators.parquet").to_pylist()
    assert {row["creator"]: row["share"] for row in totals} == pytest.approx(dict(by_hand))
    assert {row["creator"]: row["generations"] for row in totals} == dict(generations)
    assert [row["share"] for row in totals] == sorted((row["share"] for row in totals), reverse=True)
    assert summary["attributed_share"] + summary["diffuse_share"] == pytest.approx(47, abs=1e-3)
    lines = (tmp_path / "run" / "creators.csv").read_text().splitlines()
    assert lines[0] == "creator,share,share_in_distribution,generations,mean_share,low,high"
    assert len(lines) == 1 + len(totals)
    assert float(lines[1].split(",")[1]) == totals[0]["share"]


def test_the_same_bytes_for_any_number_of_workers_and_any_order_of_arguments(
    log, tmp_path, run_score, contents
):
    run_score(log, tmp_path / "one", workers=1)
    run_score([log / "b.parquet", log / "a.parquet", log], tmp_path / "four", workers=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "four")


def test_the_same_bytes_for_any_row_groups(log, tmp_path, run_score, contents):
    run_score(log, tmp_path / "one")
    before = {name: data for name, data in contents(tmp_path / "one").items() if name.startswith("shards")}
    other = tmp_path / "elsewhere" / "log"
    other.mkdir(parents=True)
    for name in ("a.parquet", "b.parquet"):
        table = pq.read_table(log / name)
        pq.write_table(table, other / name, row_group_size=13, compression="gzip", use_dictionary=False)
    run_score(other, tmp_path / "two")
    for name, data in before.items():
        # Only the run id in the footer differs: other input files are another run.
        one = pq.read_table(pa.BufferReader(data))
        assert pq.read_table(tmp_path / "two" / name).equals(one)


def test_nothing_of_time_or_place_is_written(log, tmp_path, run_score, contents):
    run_score(log, tmp_path / "run")
    for name, data in contents(tmp_path / "run").items():
        assert str(tmp_path).encode() not in data, name


@pytest.mark.parametrize("lost", [[0], [6], [1, 4, 5], [0, 1, 2, 3, 4, 5, 6]])
def test_resume_scores_what_is_missing(log, tmp_path, run_score, contents, lost):
    run_score(log, tmp_path / "run")
    whole = contents(tmp_path / "run")
    for number in lost:
        (tmp_path / "run" / "shards" / shard_name(number)).unlink()
    (tmp_path / "run" / "summary.json").unlink()
    seen = []
    result = run_score(log, tmp_path / "run", progress=lambda counts: seen.append(counts.rows))
    assert contents(tmp_path / "run") == whole
    assert result.counts.rows == 47
    assert len(seen) == 1 + len(lost)


def test_a_finished_run_is_left_alone(log, tmp_path, run_score):
    run_score(log, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.*")}
    result = run_score(log, tmp_path / "run")
    assert result.counts.resumed == 47
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.*")}
    assert before == after


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"top_k": 3}, "settings.top_k"),
        ({"batch_size": 4}, "settings.batch_size"),
        ({"rows_per_shard": 9}, "settings.rows_per_shard"),
        ({"precision": "int8"}, "settings.precision"),
        ({"filter": Filter(exclude_creators=("Ann",))}, "settings.filter.exclude_creators"),
        ({"pass_through": ("user",)}, "settings.pass_through"),
    ],
)
def test_resume_with_other_settings_is_refused(log, tmp_path, run_score, change, setting):
    run_score(log, tmp_path / "run")
    with pytest.raises(RunError) as refused:
        run_score(log, tmp_path / "run", **change)
    assert refused.value.setting == setting


def test_resume_with_another_log_is_refused(log, tmp_path, run_score, log_table):
    run_score(log, tmp_path / "run")
    table = log_table(30, 17, prompt=["changed"] * 17)
    pq.write_table(table, log / "b.parquet")
    with pytest.raises(RunError, match=r"inputs\[b.parquet\]"):
        run_score(log, tmp_path / "run")


def test_resume_with_another_bundle_is_refused(log, tmp_path, run_score):
    run_score(log, tmp_path / "run")
    plan = make_plan([log], Settings(rows_per_shard=8, batch_size=3))
    with pytest.raises(RunError, match="bundle_id"), Run(tmp_path / "run", plan, BundleState("0" * 16)):
        pass


def test_a_directory_that_is_no_run_is_refused(log, tmp_path, run_score):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"thesis.tex"):
        run_score(log, tmp_path / "run")


def test_two_processes_cannot_share_a_run(log, tmp_path, run_score, tiny_engine):
    plan = make_plan([log], Settings(rows_per_shard=8, batch_size=3))
    run = Run(tmp_path / "run", plan, BundleState(tiny_engine.bundle.manifest.bundle_id))
    # flock is by open file: another descriptor of this process is refused like another process.
    with run, pytest.raises(RunError, match="another process"):
        run_score(log, tmp_path / "run")


def test_unfinished_writes_are_cleared(log, tmp_path, run_score, contents):
    run_score(log, tmp_path / "run")
    whole = contents(tmp_path / "run")
    (tmp_path / "run" / "shards" / ".shard-000002.parquet.77.abcd.tmp").write_bytes(b"half")
    (tmp_path / "run" / ".summary.json.77.abcd.tmp").write_bytes(b"half")
    run_score(log, tmp_path / "run")
    assert contents(tmp_path / "run") == whole


def test_a_damaged_shard_is_named(log, tmp_path, run_score):
    run_score(log, tmp_path / "run")
    path = tmp_path / "run" / "shards" / shard_name(3)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(OutputError, match=r"shard-000003.parquet: is damaged"):
        run_score(log, tmp_path / "run")


def test_a_flipped_bit_in_a_shard_is_found_before_totals(log, tmp_path, run_score):
    run_score(log, tmp_path / "run")
    path = tmp_path / "run" / "shards" / shard_name(2)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(OutputError, match=r"shard-000002.parquet: is damaged"):
        run_score(log, tmp_path / "run")


def test_another_runs_shard_is_named(log, tmp_path, run_score):
    run_score(log, tmp_path / "run")
    run_score(log, tmp_path / "other", top_k=2)
    stranger = tmp_path / "other" / "shards" / shard_name(1)
    (tmp_path / "run" / "shards" / shard_name(1)).write_bytes(stranger.read_bytes())
    with pytest.raises(OutputError, match="belongs to another run"):
        run_score(log, tmp_path / "run")


def test_bad_rows_become_error_rows(tmp_path, run_score, log_table, picture):
    images = [picture(number) for number in range(9)]
    images[1] = b""
    images[2] = b"not a picture"
    images[4] = picture(4)[: len(picture(4)) // 2]
    images[5] = None
    prompts = ["a red ellipse"] * 9
    prompts[7] = "x" * 9000
    ids = [f"g-{number}" for number in range(9)]
    ids[8] = None
    table = log_table(0, 9, image=pa.array(images, pa.binary()), prompt=prompts, generation_id=ids)
    pq.write_table(table, tmp_path / "log.parquet")
    result = run_score(tmp_path / "log.parquet", tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    told = [(row["error_code"], row["error_field"]) for row in rows]
    wrong = ("INVALID_ARGUMENT", "image")
    assert told == [
        (None, None), wrong, wrong, (None, None), wrong, wrong, (None, None),
        ("INVALID_ARGUMENT", "prompt"), ("INVALID_ARGUMENT", "generation_id"),
    ]  # fmt: skip
    assert rows[8]["generation_id"] == "log.parquet#8"
    assert rows[5]["error_message"] == "is null"
    assert "the limit is 8192" in rows[7]["error_message"]
    for row in rows:
        assert (row["error_code"] is None) == (row["items"] is not None)
    assert result.summary["errors"] == {"INVALID_ARGUMENT": 6}
    assert result.summary["answered"] == 3
    # A row's neighbours do not show in its answer beyond the last digits.
    alone = log_table(3, 1)
    pq.write_table(alone, tmp_path / "alone.parquet")
    run_score(tmp_path / "alone.parquet", tmp_path / "alone")
    (single,) = rows_of(tmp_path / "alone")
    assert [item["id"] for item in single["items"]] == [item["id"] for item in rows[3]["items"]]


def test_a_batch_that_breaks_the_engine_is_tried_row_by_row(
    log, tmp_path, run_score, tiny_engine, monkeypatch
):
    real = type(tiny_engine).run

    def poisoned(self, batch):
        if any(prepared.pixels is not None and (prepared.pixels == poison).all() for prepared in batch):
            raise RuntimeError("address 0x7f0000")
        return real(self, batch)

    table = pq.read_table(log / "a.parquet").slice(4, 1).to_pylist()[0]
    poison = tiny_engine.prepare(Query(image=table["image"])).pixels
    monkeypatch.setattr(type(tiny_engine), "run", poisoned)
    run_score(log, tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert [row["generation_id"] for row in rows if row["error_code"]] == ["g-4"]
    assert rows[4]["error_code"] == "INTERNAL"
    assert "0x" not in rows[4]["error_message"]


def test_an_engine_that_is_away_makes_no_error_rows(
    log, tmp_path, run_score, tiny_engine, monkeypatch, contents
):
    real = type(tiny_engine).run
    calls = []

    def flaky(self, batch):
        calls.append(None)
        if len(calls) > 6:
            raise UnavailableError("gone")
        return real(self, batch)

    monkeypatch.setattr(type(tiny_engine), "run", flaky)
    with pytest.raises(UnavailableError, match="gone"):
        run_score(log, tmp_path / "run", workers=1)
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.undo()
    run_score(log, tmp_path / "run")
    run_score(log, tmp_path / "smooth")
    assert contents(tmp_path / "run") == contents(tmp_path / "smooth")


def test_a_plainly_wrong_run_is_stopped(tmp_path, run_score, log_table):
    images = pa.array([b"junk"] * 400, pa.binary())
    pq.write_table(log_table(0, 400, image=images), tmp_path / "log.parquet")
    with pytest.raises(RunError, match="max_error_rate") as stopped:
        run_score(tmp_path / "log.parquet", tmp_path / "run", max_error_rate=0.25)
    assert stopped.value.setting == "max_error_rate"
    there = len(list((tmp_path / "run" / "shards").glob("shard-*")))
    # Stopped at the 32nd row (25% of the first 100), not at the end.
    assert 4 <= there < 12
    # A higher rate goes on where it stopped.
    assert run_score(tmp_path / "log.parquet", tmp_path / "run").summary["answered"] == 0


def test_a_few_wrong_rows_of_a_short_log_do_not_stop_it(tmp_path, run_score, log_table):
    images = pa.array([b"junk"] * 5, pa.binary())
    pq.write_table(log_table(0, 5, image=images), tmp_path / "log.parquet")
    assert run_score(tmp_path / "log.parquet", tmp_path / "run", max_error_rate=0.1).counts.errors == 5


def test_filter_holds_and_a_wrong_one_is_no_rows_fault(log, tmp_path, run_score):
    run_score(log, tmp_path / "run", filter=Filter(include_creators=("Ann",)))
    names = {creator["creator"] for row in rows_of(tmp_path / "run") for creator in row["creators"]}
    assert names == {"Ann"}
    with pytest.raises(InvalidArgumentError, match="Nobody"):
        run_score(log, tmp_path / "wrong", filter=Filter(include_creators=("Nobody",)))
    assert not (tmp_path / "wrong").exists()


def test_an_empty_log_is_a_finished_run(tmp_path, run_score, log_table):
    pq.write_table(log_table(0, 0), tmp_path / "log.parquet")
    summary = run_score(tmp_path / "log.parquet", tmp_path / "run").summary
    assert summary["rows"] == 0
    assert summary["creators"] == 0
    assert pq.read_table(tmp_path / "run" / "creators.parquet").num_rows == 0


def test_the_summary_has_every_files_digest(log, tmp_path, run_score, contents):
    import hashlib

    run_score(log, tmp_path / "run")
    files = contents(tmp_path / "run")
    told = json.loads(files.pop("summary.json"))["files"]
    assert told == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_schema_is_the_documented_one(log, tmp_path, run_score):
    run_score(log, tmp_path / "run", pass_through=("user",))
    schema = pq.read_schema(tmp_path / "run" / "shards" / shard_name(0))
    assert schema.names == ["generation_id", "model_id", "user", *OWN_COLUMNS[2:]]
    assert schema.metadata[b"attributary.schema_version"] == b"3"
    text = (Path(__file__).parents[3] / "docs" / "batch.md").read_text()
    for name in OWN_COLUMNS:
        assert f"| `{name}` | {str(schema.field(name).type).split('<')[0]}" in text, name


def test_image_digests_are_of_the_encoded_bytes(log, tmp_path, run_score, picture):
    import hashlib

    run_score(log, tmp_path / "run")
    digests = [row["image_sha256"] for row in rows_of(tmp_path / "run")]
    assert digests[5] == hashlib.sha256(picture(5)).hexdigest()
    assert pc.count_distinct(pa.array(digests)).as_py() == len({picture(number) for number in range(47)})


def test_totals_have_the_sums_of_the_intervals(tmp_path):
    from attributary.batch.job import Totals

    def shard(*creators):
        one = pa.struct(
            [("creator", pa.string()), ("share", pa.float32()), ("low", pa.float32()), ("high", pa.float32())]
        )
        rows = len(creators)
        return pa.table(
            {
                "error_code": pa.nulls(rows, pa.string()),
                "prompt_source": pa.nulls(rows, pa.string()),
                "creators": pa.array(creators, pa.list_(one)),
                "bundle_revision": pa.array([0] * rows, pa.int64()),
                "out_of_distribution": [False] * rows,
                "diffuse_share": [0.5] * rows,
                "withheld_share": [0.0] * rows,
            }
        )

    ann = {"creator": "Ann", "share": 0.25, "low": 0.125, "high": 0.5}
    bo = {"creator": "Bo", "share": 0.25, "low": None, "high": None}
    totals = Totals()
    totals.add(shard([ann, bo], [ann]))
    totals.add(shard([ann]))
    first, second = totals.creators().to_pylist()
    assert (first["creator"], first["share"], first["low"], first["high"]) == ("Ann", 0.75, 0.375, 1.5)
    # One answer without an interval leaves the sum without one.
    assert (second["creator"], second["low"], second["high"]) == ("Bo", None, None)
