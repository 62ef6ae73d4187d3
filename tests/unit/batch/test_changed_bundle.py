"""A bundle that is changed after its build: deletions hold in a run, and each row says at which revision it is."""

import shutil

import pytest

from attributary.attribution.open import open_engine
from attributary.batch.job import score
from attributary.batch.plan import make_plan
from attributary.batch.run import shard_tables
from attributary.batch.scoring import EngineScorer
from attributary.batch.settings import Settings
from attributary.delta.selection import Selection
from attributary.delta.store import Store

SETTINGS = Settings(rows_per_shard=8, batch_size=3)


@pytest.fixture
def bundle(tiny_bundle_dir, tmp_path):
    return shutil.copytree(tiny_bundle_dir, tmp_path / "bundle")


def delete(bundle, creator):
    with Store(bundle, open_engine) as store:
        store.delete(Selection(creator=creator), who="test", why="opted out")


def run(bundle, log, out, progress=lambda counts: None):
    scorer = EngineScorer(open_engine(bundle), SETTINGS)
    return scorer, score(make_plan([log], SETTINGS), scorer, out, workers=2, progress=progress)


def test_who_has_opted_out_is_in_no_answer(bundle, log, tmp_path):
    before = run(bundle, log, tmp_path / "before")[1].summary
    delete(bundle, "Ann")
    after = run(bundle, log, tmp_path / "after")[1].summary
    names = lambda out: {  # noqa: E731
        total["creator"]
        for table in shard_tables(out)
        for row in table.to_pylist()
        for total in row["creators"]
    }
    assert "Ann" in names(tmp_path / "before")
    assert "Ann" not in names(tmp_path / "after")
    assert (before["bundle_revision"], after["bundle_revision"]) == (0, 1)
    assert before["bundle_id"] == after["bundle_id"]


def test_a_run_goes_on_after_its_bundle_was_changed(bundle, log, tmp_path):
    class StopError(Exception):
        pass

    def stop(counts):
        if counts.rows == 16:
            raise StopError

    with pytest.raises(StopError):
        run(bundle, log, tmp_path / "run", stop)
    delete(bundle, "Ann")
    result = run(bundle, log, tmp_path / "run")[1]
    assert 16 <= result.counts.resumed < result.counts.total
    assert (result.summary["bundle_revision"], result.summary["last_bundle_revision"]) == (0, 1)
    revisions = [
        row["bundle_revision"]
        for table in shard_tables(tmp_path / "run")
        for row in table.to_pylist()
        if row["error_code"] is None
    ]
    assert set(revisions) == {0, 1}
    assert revisions == sorted(revisions)


def test_a_change_while_the_run_goes_on_does_not_void_it(bundle, log, tmp_path):
    with Store(bundle, open_engine) as store:
        scorer = EngineScorer(store.engine, SETTINGS)

        def change(counts):
            if counts.rows == 16:
                store.delete(Selection(creator="Bo"), who="test", why="opted out")

        summary = score(
            make_plan([log], SETTINGS), scorer, tmp_path / "run", workers=1, progress=change
        ).summary
    assert (summary["bundle_revision"], summary["last_bundle_revision"]) == (0, 1)
    rows = [row for table in shard_tables(tmp_path / "run") for row in table.to_pylist()]
    after = [row for row in rows if row["bundle_revision"] == 1]
    assert after
    assert "Bo" not in {total["creator"] for row in after for total in row["creators"]}
