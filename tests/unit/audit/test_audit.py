"""An audit: a row a query, resumable, honest about queries that fail; a summary that says whether agreement fell."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from attributary_train.audit import asking, run
from attributary_train.audit.asking import AuditSettings
from attributary_train.audit.commands import audit
from attributary_train.audit.drift import recorded_agreement, summary
from attributary_train.audit.log import Logged, read_log
from attributary_train.calibration.agreement import agree_on, summarise
from attributary_train.errors import AuditError


def invoke(chain, log, out, *more, labels=True):
    arguments = [
        "--bundle", chain.bundle, "--subject", chain.subject.subject, "--corpus", chain.subject.corpus.root,
        "--cache", chain.subject.cache, "--queries", log, "--out", out, "--candidates", 12, "--outside", 24,
        *(("--labels", chain.labels["test"]) if labels else ()), *more,
    ]  # fmt: skip
    return CliRunner().invoke(audit, [str(value) for value in arguments])


@pytest.fixture(scope="module")
def log(chain, tmp_path_factory):
    """Three pictures, of which one is cut off, and a null one."""
    data = [(chain.asked / f"{number}.png").read_bytes() for number in range(3)]
    rows = {
        "id": ["a", "b", "c", "d"],
        "image": [data[0], data[1][:60], None, data[2]],
        "prompt": ["", "x", None, "y"],
    }
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(pa.table(rows), path)
    return path


@pytest.fixture(scope="module")
def finished(chain, log, tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "out"
    done = invoke(chain, log, out, "--json")
    assert done.exit_code == 0, done.output
    return out


def test_a_row_a_query(finished):
    table = pq.read_table(finished / "audit.parquet")
    assert table["id"].to_pylist() == ["a", "b", "c", "d"]
    assert [error is None for error in table["error"].to_pylist()] == [True, False, False, True]
    assert table["error"][2].as_py() == "image: is null"
    rows = [json.loads(line) for line in (finished / "rows.jsonl").read_text().splitlines()]
    for row in (rows[0], rows[3]):
        assert len(row["items"]) == 12 and all(np.isfinite(item["score"]) for item in row["items"])
        assert -1 <= row["rank_correlation"] <= 1 and 0 <= row["overlap_at_10"] <= 1
        assert 0 <= row["share_difference"] <= 1 + 1e-9 and row["unknown_to_teacher"] == 0
    told = json.loads((finished / "summary.json").read_text())["results"]
    assert (told["queries"], told["failed"]) == (4, 2)
    # The bundle carries what held-out queries showed, so that the line has something to compare with.
    assert "at build" in told["line"] and set(told["recorded"]) == {
        "rank_correlation", "overlap_at_10", "share_difference",
    }  # fmt: skip


def test_goes_on_where_it_stopped(chain, log, finished, tmp_path, monkeypatch):
    out = shutil.copytree(finished, tmp_path / "out")
    lines = (out / "rows.jsonl").read_bytes().splitlines(keepends=True)
    # Killed in the middle of the third row.
    (out / "rows.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:25])
    (out / "audit.parquet").unlink()
    asked = []
    genuine = asking.Auditor.ask
    monkeypatch.setattr(
        asking.Auditor, "ask", lambda self, query: asked.append(query.id) or genuine(self, query)
    )
    done = invoke(chain, log, out)
    assert done.exit_code == 0, done.output
    assert asked == ["c", "d"]
    again = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in lines]
    # The same answers as without the kill: noise and random items belong to the query.
    assert [row.get("items") for row in again] == [row.get("items") for row in before]


def test_another_audit_in_the_same_folder_is_refused(chain, log, finished):
    done = invoke(chain, log, finished, "--limit", 2)
    assert done.exit_code == 1 and "was begun with another limit" in done.output


def test_the_teacher_is_set_by_name_or_by_its_labels_never_both(chain, log, tmp_path):
    words = ["--set", "timesteps=2", "--set", "parameters=cross_attention"]
    done = invoke(chain, log, tmp_path / "both", *words)
    assert done.exit_code == 2 and "the labels say how the teacher is set" in done.output
    done = invoke(chain, log, tmp_path / "out", *words, "--id", "a", labels=False)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "audit.json").read_text())["teacher"]["settings"]
    assert (told["timesteps"], told["parameters"]) == (2, "cross_attention")


def test_a_bundle_of_another_generator_is_refused(chain, log, tiny_bundle_dir, tmp_path):
    other = type(chain)(**{**chain.__dict__, "bundle": tiny_bundle_dir})
    done = invoke(other, log, tmp_path / "out")
    assert done.exit_code == 1 and "bundle: attributes the generator 'none (untuned encoder)'" in done.output


def test_latents_of_the_generator_s_own_log(chain, tmp_path):
    found = read_log(chain.queries, ids=("test-0001", "validation-0000"))
    assert [one.id for one in found] == ["validation-0000", "test-0001"]
    assert all(one.image is None and len(one.latent) > 0 for one in found)
    done = invoke(chain, chain.queries, tmp_path / "out", "--id", "test-0001")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "rows.jsonl").read_text())["error"] is None


def test_logs_that_cannot_be_audited(log, tmp_path):
    pq.write_table(pa.table({"id": ["a", "a"], "image": [b"", b""]}), tmp_path / "twice.parquet")
    pq.write_table(pa.table({"id": ["a"], "picture": [b""]}), tmp_path / "none.parquet")
    pq.write_table(pa.table({"id": ["a"], "image": ["text"]}), tmp_path / "text.parquet")
    (tmp_path / "torn.parquet").write_bytes(log.read_bytes()[:50])
    for name, message in (
        ("twice", "holds the id 'a' twice"),
        ("none", "needs id or generation_id or name, and image or latent"),
        ("text", "column image must hold bytes, holds str"),
        ("torn", "cannot be read"),
    ):
        with pytest.raises(AuditError, match=message):
            read_log(tmp_path / f"{name}.parquet")
    with pytest.raises(AuditError, match="'z' is not in"):
        read_log(log, ids=("z",))
    with pytest.raises(AuditError, match="limit: 0"):
        read_log(log, limit=0)
    assert len(read_log(log, limit=2)) == 2 and read_log(log, limit=2) == read_log(log, limit=2)
    with pytest.raises(AuditError, match="outside: 3; must be at least 20"):
        AuditSettings(outside=3)


def rows(mean, count=50, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "id": str(at), "error": None, "seconds": 1.0, "cpu_seconds": 0.5, "out_of_distribution": False,
            "rank_correlation": mean + 0.1 * rng.standard_normal(), "overlap_at_10": mean, "share_difference": 0.3,
        }
        for at in range(count)
    ]  # fmt: skip


def test_drift_is_a_fall_that_chance_does_not_explain():
    recorded = summary(rows(0.6), {})["agreement"]
    assert "nothing recorded" in summary(rows(0.6), {})["line"]
    same = summary(rows(0.6, seed=1), recorded)
    assert same["drift"] == [] and "within chance" in same["line"]
    fell = summary(rows(0.45, seed=1), recorded)
    assert fell["drift"] == ["rank_correlation", "overlap_at_10"]
    assert summary(rows(0.75, seed=1), recorded)["drift"] == []
    wider = [{**row, "share_difference": 0.5} for row in rows(0.6)]
    assert summary(wider, recorded)["drift"] == ["share_difference"]
    nothing = summary([{"id": "a", "error": "gone", "seconds": 1.0, "cpu_seconds": 0.5}], recorded)
    assert nothing["failed"] == 1 and nothing["drift"] == []


def test_notes_of_a_bundle_without_a_record():
    assert recorded_agreement({}) == {} and recorded_agreement({"measured": "no json"}) == {}
    assert recorded_agreement({"measured": "[]"}) == {}


def test_agreement_of_one_query():
    cosines, scores = np.array([0.9, 0.8, 0.7]), np.array([3.0, 2.0, 1.0])
    exact = agree_on(
        cosines, np.array([0.5, 0.2, 0.1]), 0.2, scores, np.array([0.5, 0.2, 0.1]), 0.2, np.zeros(5)
    )
    assert (exact.rank_correlation, exact.overlap_at_10, exact.share_difference) == (1, 1, pytest.approx(0))
    disjoint = agree_on(
        cosines, np.array([1.0, 0, 0]), 0.0, -scores, np.array([0, 0, 1.0]), 0.0, np.full(5, 9.0)
    )
    assert (disjoint.rank_correlation, disjoint.overlap_at_10) == (-1, 0)
    assert disjoint.share_difference == pytest.approx(1)
    # Mass that the teacher gives to items that were not served counts against the answer.
    missed = agree_on(
        cosines, np.array([0.5, 0.2, 0.1]), 0.2, scores, np.array([0.25, 0.1, 0.05]), 0.2, np.zeros(5)
    )
    assert missed.share_difference == pytest.approx(0.4)
    assert summarise([exact, disjoint])["rank_correlation"]["mean"] == pytest.approx(0)


def test_a_damaged_audit_is_named(tmp_path):
    run.begin(tmp_path / "out", {"a": 1})
    (tmp_path / "out" / "rows.jsonl").write_text('{"no id": 1}\n')
    with pytest.raises(AuditError, match=r"rows\.jsonl: is damaged"):
        run.done(tmp_path / "out")
    with pytest.raises(AuditError, match="another a"):
        run.begin(tmp_path / "out", {"a": 2})
    assert Logged("a", "", b"", None).latent is None
