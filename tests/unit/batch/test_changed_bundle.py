"""A bundle that is changed after its build: deletions hold in a run, and a run belongs to one revision."""

import shutil

import pytest

from attributary.attribution.open import open_engine
from attributary.batch.job import score
from attributary.batch.plan import make_plan
from attributary.batch.scoring import EngineScorer
from attributary.batch.settings import Settings
from attributary.batch.totals import shard_tables
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import RunError

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


def test_a_run_is_not_resumed_on_another_revision(bundle, log, tmp_path):
    run(bundle, log, tmp_path / "run")
    delete(bundle, "Ann")
    with pytest.raises(RunError, match="bundle_revision: the run has 0, this command 1"):
        run(bundle, log, tmp_path / "run")


def test_a_change_while_the_run_goes_on_ends_it(bundle, log, tmp_path):
    with Store(bundle, open_engine) as store:
        scorer = EngineScorer(store.engine, SETTINGS)

        def change(counts):
            if counts.rows == 16:
                store.delete(Selection(creator="Bo"), who="test", why="opted out")

        with pytest.raises(RunError, match="changed from revision 0 to 1 while it was asked"):
            score(make_plan([log], SETTINGS), scorer, tmp_path / "run", workers=1, progress=change)
    assert not (tmp_path / "run" / "summary.json").exists()
