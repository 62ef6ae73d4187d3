"""The benchmark on a world with a planted truth: losses that are sums over the kept items."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from attributary_train.cli import main
from attributary_train.errors import EvaluationError
from attributary_train.evaluation.bench import (
    Bench,
    by_order,
    constant_scores,
    open_world,
    read_scores,
    seed_agreement,
    within_caption,
)
from attributary_train.evaluation.bench_creators import CreatorBench, open_creators
from attributary_train.evaluation.bench_report import judge, keep
from attributary_train.evaluation.half_plan import creator_masks, half_masks
from attributary_train.evaluation.halves import write_masks
from attributary_train.evaluation.left_out import (
    FILE,
    kept_without,
    left_out_rows,
    open_left_out,
    query_groups,
    run_name,
    write_groups,
)
from attributary_train.evaluation.scores import ScoreFile, save_scores

ITEMS, PAIRS, QUERIES = 60, 16, 30
KINDS = ("concept", "drawing")
CREATORS = [f"hand {at}" for at in range(10)]
HANDS = [CREATORS[at % 10] if at < 50 else CREATORS[at % 2] for at in range(ITEMS)]


class Planted:
    """`truth`: influence [Q, N], in part common to all queries. Item i has the caption "word i % 6" on both levels."""

    def __init__(self, root):
        self.folder = root / "world"
        self.folder.mkdir()
        rng = np.random.default_rng(0)
        self.ids = np.sort(rng.permutation(10_000)[:ITEMS]).astype(np.int64)
        self.masks = half_masks(ITEMS, PAIRS)
        np.savez(self.folder / "plan.npz", kept=np.packbits(self.masks, axis=1), ids=self.ids)
        common = rng.random(ITEMS)
        names, splits, prompts = [], [], []
        runs = [f"half-{at:03d}" for at in range(2 * PAIRS)] + [f"half-{at:03d}-second" for at in range(6)]
        self.truth = {}
        for split in ("train", "validation", "test"):
            influence = rng.random((QUERIES, ITEMS)) ** 8 + 0.2 * common
            self.truth[split] = influence
            subset = [*range(2 * PAIRS), *range(6)]
            losses = -(influence @ self.masks[subset].T).T + 0.02 * rng.standard_normal((len(runs), QUERIES))
            np.savez(
                self.folder / f"losses-{split}.npz", losses=losses.astype(np.float32), runs=np.array(runs)
            )
            names += [f"{split}-{at:04d}" for at in range(QUERIES)]
            splits += [split] * QUERIES
            prompts += [f"word {at % 6}" for at in range(QUERIES)]
        self.names = names
        self.prompts = prompts
        (self.folder / "truth.json").write_text("{}")
        self._tables(names, splits, prompts)

    def _tables(self, names, splits, prompts):
        kinds = [KINDS[at % 2] for at in range(len(names))]
        table = {
            "name": names,
            "split": splits,
            "kind": kinds,
            "prompt": prompts,
            "latent": [b"x"] * len(names),
        }
        pq.write_table(pa.table(table), self.folder / "queries.parquet")
        pq.write_table(
            pa.table({"name": names, "digest": [f"d{name}" for name in names]}),
            self.folder / "digests.parquet",
        )
        words = [f"word {at % 6}" for at in range(ITEMS)]
        pq.write_table(
            pa.table({"id": self.ids, "creator": HANDS, "caption_concept": words, "caption_style": words}),
            self.folder / "items.parquet",
        )

    def add(self, split, runs, masks):
        """Trainings on what each mask [N] keeps, without noise, after those that are there."""
        path = self.folder / f"losses-{split}.npz"
        with np.load(path) as parts:
            losses, before = parts["losses"], parts["runs"].tolist()
        more = -(self.truth[split] @ np.array(masks).T).T.astype(np.float32)
        np.savez(path, losses=np.concatenate([losses, more]), runs=np.array([*before, *runs]))

    def file(self, path, scores, split="validation", method="mine", digests=None, ids=None):
        names = tuple(name for name in self.names if name.startswith(split))
        save_scores(
            ScoreFile(
                method,
                scores.astype(np.float32),
                names,
                self.ids if ids is None else ids,
                "weights",
                {},
                digests or tuple(f"d{name}" for name in names),
            ),
            path,
        )
        return path


@pytest.fixture
def planted(tmp_path):
    return Planted(tmp_path)


def test_halves_come_in_complements_and_are_the_same_whatever_their_number():
    masks = half_masks(7, 5)
    assert np.array_equal(masks[0::2], ~masks[1::2])
    assert (masks[0::2].sum(axis=1) == 3).all()
    assert np.array_equal(half_masks(7, 2), masks[:4])
    with pytest.raises(EvaluationError, match="pairs"):
        half_masks(7, 1)


def test_the_truth_scores_high_and_what_knows_nothing_scores_zero(planted):
    world = open_world(planted.folder, "validation")
    bench = Bench(world, draws=50)
    truth = bench.of(planted.truth["validation"])
    chance = bench.of(np.random.default_rng(1).random((QUERIES, ITEMS)))
    assert truth.interval.value > 0.95
    assert truth.interval.low <= truth.interval.value <= truth.interval.high
    assert chance.interval.low < 0 < chance.interval.high
    assert bench.difference(truth, chance).above(0.5)
    assert bench.of(np.ones((QUERIES, ITEMS))).interval.value == 0.0
    assert seed_agreement(world) > 0.9


def test_order_forgets_amounts_and_within_caption_forgets_words(planted):
    world = open_world(planted.folder, "validation")
    scores = planted.truth["validation"]
    assert np.array_equal(by_order(scores), by_order(np.exp(5 * scores)))
    same = world.same_caption()
    words = within_caption(same.astype(float), same)
    assert not words.any()
    moved = scores + 100.0 * same
    assert np.allclose(within_caption(moved, same), within_caption(scores, same))


def test_a_constant_is_the_best_one_list(planted):
    train, held = open_world(planted.folder, "train"), open_world(planted.folder, "test")
    constant = constant_scores(train, QUERIES)
    assert np.array_equal(constant[0], constant[-1])
    bench = Bench(held, draws=20)
    assert 0.0 < bench.of(constant).interval.value < bench.of(planted.truth["test"]).interval.value


def test_files_are_kept_beside_those_that_are_there(planted, tmp_path):
    place = tmp_path / "methods"
    for name in ("first", "the second"):
        file = planted.file(tmp_path / "scores.npz", planted.truth["validation"], method=name)
        asked = ["bench", str(file), "--world", str(planted.folder), "--keep", str(place)]
        done = CliRunner().invoke(main, asked)
        assert done.exit_code == 0, done.output
    assert sorted(path.name for path in place.iterdir()) == ["first.npz", "the-second.npz"]


def test_the_report_stands_beside_rivals_and_by_kind(planted, tmp_path):
    rng = np.random.default_rng(2)
    weak = planted.truth["validation"] + rng.random((QUERIES, ITEMS))
    joined = planted.file(tmp_path / "joined.npz", weak, method="joined")
    place = planted.folder / "rivals" / "validation"
    assert keep(open_world(planted.folder, "validation"), place, [joined]) == [place / "joined.npz"]
    mine = planted.file(tmp_path / "mine.npz", planted.truth["validation"])
    told = judge(planted.folder, "validation", [mine], draws=30, rows_to=tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as rows:
        assert rows["mine/order"].shape == (QUERIES,)
    methods = {row["method"]: row for row in told["results"]["methods"]}
    assert set(methods) == {"constant", "chance", "joined", "mine"}
    assert told["results"]["methods"][0]["method"] == "mine"
    gaps = {row["measure"]: row for row in told["results"]["differences"]}
    assert gaps["order"]["minus"] == "joined" and gaps["order"]["low"] > 0
    kinds = {row["method"]: row for row in told["results"]["order, by kind of query"]}
    assert set(kinds["mine"]) == {"method", *KINDS}
    one = judge(planted.folder, "validation", [mine], kinds=["drawing"], draws=10)
    assert one["config"]["queries"] == QUERIES // 2
    with pytest.raises(EvaluationError, match="kind"):
        judge(planted.folder, "validation", [mine], kinds=["colour"], draws=10)


def test_halves_without_their_complement_are_left_out(planted):
    with np.load(planted.folder / "losses-test.npz") as parts:
        losses, runs = parts["losses"], parts["runs"]
    np.savez(planted.folder / "losses-test.npz", losses=losses[:21], runs=runs[:21])
    assert len(open_world(planted.folder, "test").kept) == 20
    np.savez(planted.folder / "losses-test.npz", losses=losses[:3], runs=runs[:3])
    with pytest.raises(EvaluationError, match="at least 2"):
        open_world(planted.folder, "test")


def test_the_first_halves_may_judge_nothing(planted, tmp_path):
    """A method that learnt from some halves is judged by the others."""
    whole, rest = open_world(planted.folder, "validation"), open_world(planted.folder, "validation", 8)
    assert np.array_equal(rest.kept, whole.kept[8:])
    assert np.array_equal(rest.outputs, whole.outputs[:, 8:])
    assert np.array_equal(open_world(planted.folder, "validation", 7).kept, rest.kept)
    with pytest.raises(EvaluationError, match="at least 2"):
        open_world(planted.folder, "validation", len(whole.kept) - 2)


def test_scores_that_do_not_fit_are_refused_by_name(planted, tmp_path):
    world = open_world(planted.folder, "validation")
    scores = planted.truth["validation"]
    shuffled = np.random.default_rng(0).permutation(ITEMS)
    path = planted.file(tmp_path / "a.npz", scores[:, shuffled], ids=planted.ids[shuffled])
    assert np.allclose(read_scores(path, world)[1], scores, atol=1e-6)
    other = planted.file(tmp_path / "b.npz", scores, digests=tuple("x" * QUERIES))
    with pytest.raises(EvaluationError, match="other ones"):
        read_scores(other, world)
    with pytest.raises(EvaluationError, match="validation queries"):
        read_scores(planted.file(tmp_path / "c.npz", scores, split="test"), world)
    with pytest.raises(EvaluationError, match="ids are not"):
        read_scores(planted.file(tmp_path / "d.npz", scores, ids=planted.ids + 1), world)
    plain = tmp_path / "plain.npz"
    np.savez(plain, scores=scores, queries=np.array(world.names), ids=world.ids)
    assert read_scores(plain, world)[0] == "plain"
    np.savez(plain, scores=scores * np.nan, queries=np.array(world.names), ids=world.ids)
    with pytest.raises(EvaluationError, match="not finite"):
        read_scores(plain, world)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(EvaluationError, match="not readable"):
        read_scores(tmp_path / "torn.npz", world)


def test_creators_are_judged_by_what_is_lost_without_them(planted, tmp_path):
    (planted.folder / "truth.json").write_text(json.dumps({"creators": CREATORS}))
    path = planted.folder / "losses-validation.npz"
    with np.load(path) as parts:
        losses, runs = parts["losses"], parts["runs"].tolist()
    world = open_world(planted.folder, "validation")
    assert open_creators(planted.folder, world) is None
    member = np.array([[hand == name for hand in HANDS] for name in CREATORS])
    whole = np.full(QUERIES, -9.0)
    gains = planted.truth["validation"] @ member.T
    rows = [losses, whole[None], *(whole + gains[:, at][None] for at in range(10))]
    runs += ["whole-000", *(f"creator-{at:03d}-0" for at in range(10))]
    np.savez(
        path,
        losses=np.concatenate([np.atleast_2d(row) for row in rows]).astype(np.float32),
        runs=np.array(runs),
    )
    creators = open_creators(planted.folder, world)
    assert creators.names == tuple(CREATORS) and np.allclose(creators.effect, gains, atol=1e-4)
    bench = CreatorBench(creators, draws=30)
    truth = bench.of(planted.truth["validation"])
    assert truth.value > 0.99 and bench.counts().value < 0.9
    # Where truth gives a creator most, much is lost; where chance does, as much as anywhere.
    assert bench.leading(planted.truth["validation"]).value > 1.0
    blind = np.random.default_rng(1).random(planted.truth["validation"].shape)
    assert abs(bench.leading(blind).value) < bench.leading(planted.truth["validation"]).value / 2
    assert bench.leading(np.zeros_like(blind)).value == pytest.approx(0.0, abs=1e-9)
    mine = planted.file(tmp_path / "mine.npz", planted.truth["validation"])
    told = judge(planted.folder, "validation", [mine], draws=10)["results"]
    table = told["creators, against leave-one-creator-out"]
    assert {row["method"] for row in table} == {"number of items", "spread of effects", "chance", "mine"}


def test_halves_by_creator_are_judged_apart_from_the_others(planted, tmp_path):
    masks = creator_masks(HANDS, 6)
    write_masks(planted.folder / "plan-creators.npz", masks, planted.ids)
    mine = planted.file(tmp_path / "mine.npz", planted.truth["validation"])
    before = judge(planted.folder, "validation", [mine], draws=10)["results"]
    assert "halves that hold whole creators" not in before
    planted.add("validation", [f"creators-half-{at:03d}" for at in range(12)], masks)
    world = open_world(planted.folder, "validation", by="creators")
    assert np.array_equal(world.kept, masks)
    after = judge(planted.folder, "validation", [mine], draws=10)["results"]
    assert after["methods"] == before["methods"]
    rows = {(row["method"], row["measure"]): row for row in after["halves that hold whole creators"]}
    assert rows["mine", "raw"]["value"] > 0.99
    assert rows["mine", "raw"]["difference_low"] > 0 and "difference" not in rows["constant", "order"]
    # All halves have as many items: that a creator has many is worth nothing.
    counted = Bench(world, draws=10).of(np.ones((QUERIES, ITEMS)))
    assert counted.interval.value == 0.0


def test_items_left_out_in_groups_are_judged_by_what_their_own_queries_lose(planted):
    truth = planted.truth["validation"]
    blind = np.random.default_rng(5).random(truth.shape)
    prompts = [planted.prompts[at] for at, name in enumerate(planted.names) if name.startswith("validation")]
    names = [name for name in planted.names if name.startswith("validation")]
    groups = query_groups(prompts, 5, 6)
    assert query_groups(prompts, 3, 6) == groups[:3]
    assert sorted(at for group in groups for at in group) == sorted({at for group in groups for at in group})
    assert all(len({prompts[at] for at in group}) == 6 for group in groups)
    with pytest.raises(EvaluationError, match="30 queries make"):
        query_groups(prompts, 6, 6)
    kept = {name: kept_without(scores, groups, 2) for name, scores in (("sees", truth), ("blind", blind))}
    assert all(
        not mask[np.argsort(-truth[at])[:2]].any()
        for mask, g in zip(kept["sees"], groups, strict=True)
        for at in g
    )
    path = planted.folder / FILE
    named = [[names[at] for at in group] for group in groups]
    world = open_world(planted.folder, "validation")
    assert open_left_out(planted.folder, world) is None
    for method, masks in kept.items():
        write_groups(path, "validation", 2, named, {method: [int((~mask).sum()) for mask in masks]})
    assert open_left_out(planted.folder, world) is None
    # Each method has the groups that are trained; they are compared on those that both have.
    planted.add("validation", [run_name("sees", at) for at in range(5)], kept["sees"])
    planted.add("validation", [run_name("blind", at) for at in range(3)], kept["blind"][:3])
    found = open_left_out(planted.folder, world)
    assert found.rises["sees"].shape == (5, 6) and found.rises["blind"].shape == (3, 6)
    rows = {row["method"]: row for row in left_out_rows(found, ["blind"])}
    gap = 1000 * (found.rises["sees"][:3] - found.rises["blind"]).mean()
    assert rows["sees"]["queries"] == 30 and rows["sees"]["difference"] == pytest.approx(gap, rel=1e-3)
    assert rows["sees"]["groups"] == 3 and rows["sees"]["difference_of_groups_low"] > 0
    assert rows["sees"]["difference_of_groups"] == rows["sees"]["difference"]
    planted.add("validation", [run_name("blind", at) for at in range(3, 5)], kept["blind"][3:])
    found = open_left_out(planted.folder, world)
    rows = {row["method"]: row for row in left_out_rows(found, ["blind"])}
    assert rows["sees"]["low"] > 0 and rows["sees"]["difference_low"] > 0 and rows["sees"]["queries"] == 30
    assert rows["blind"]["low"] < 0.2 * rows["sees"]["value"]
    assert judge(planted.folder, "validation", [], draws=10)["results"]["leave-K-out, in groups"]
    assert open_left_out(planted.folder, open_world(planted.folder, "test")) is None
    # What was said of other queries is not overwritten; fewer groups of the same take nothing away.
    write_groups(path, "validation", 2, named[:2], {})
    assert json.loads(path.read_text())["groups"] == named
    with pytest.raises(EvaluationError, match="other queries"):
        write_groups(path, "validation", 3, named, {})
    with pytest.raises(EvaluationError, match="other queries"):
        write_groups(path, "validation", 2, named[::-1], {})
    path.write_text("{}")
    with pytest.raises(EvaluationError, match="lacks count"):
        open_left_out(planted.folder, world)


def test_the_command_prints_one_object(planted, tmp_path):
    mine = planted.file(tmp_path / "mine.npz", planted.truth["validation"])
    asked = ["bench", str(mine), "--world", str(planted.folder), "--draws", "10", "--json"]
    answer = CliRunner().invoke(main, asked)
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.output)
    assert told["script"] == "bench" and told["config"]["split"] == "validation"
    wrong = CliRunner().invoke(main, ["bench", str(mine), "--world", str(tmp_path)])
    assert wrong.exit_code == 1 and "plan.npz" in wrong.output
