"""The core's answers, against a plain NumPy account of what they should be."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attributary.attribution.engine import Engine
from attributary.attribution.types import Filter, Options, Query
from attributary.bundle.names import Codes
from attributary.delta.journal.records import Changes, Deleted
from attributary.errors import AttributaryError, InvalidArgumentError


@pytest.fixture(scope="module")
def item_picture(tiny_corpus_dir):
    return lambda number: (tiny_corpus_dir / f"pictures/{number}.png").read_bytes()


def plain_ranking(engine, embedding):
    similarity = engine.bundle.vectors.astype(np.float32) @ embedding
    return np.argsort(-similarity, kind="stable"), similarity


def test_an_item_with_its_caption_is_its_own_best_source(tiny_engine, item_picture):
    for number in (0, 17, 123):
        caption = tiny_engine.bundle.items.caption(number)
        answer = tiny_engine.attribute(Query(image=item_picture(number), prompt=caption))
        best = answer.items[0]
        assert best.similarity == pytest.approx(1.0, abs=2e-3)
        assert 1000 + number in {item.id for item in answer.items[:3]}


def test_ranking_and_similarity_match_exact_search(tiny_engine, item_picture):
    prepared = tiny_engine.prepare(Query(image=item_picture(5)), Options(top_k=25))
    embedding = tiny_engine.embed([prepared])[0]
    rows, similarity = plain_ranking(tiny_engine, embedding)
    answer = tiny_engine.run([prepared])[0]
    assert [item.id - 1000 for item in answer.items] == rows[:25].tolist()
    assert [item.similarity for item in answer.items] == pytest.approx(similarity[rows[:25]], abs=1e-4)
    assert [item.rank for item in answer.items] == list(range(1, 26))


def test_shares_creators_and_diffuse_add_up(tiny_engine, item_picture):
    answer = tiny_engine.attribute(Query(image=item_picture(9)), Options(top_k=200, top_creators=10))
    assert 0 <= answer.diffuse_share <= 1
    total = sum(creator.share for creator in answer.creators) + answer.diffuse_share
    assert total == pytest.approx(1.0, abs=1e-3)
    by_creator = {creator.creator: creator.share for creator in answer.creators}
    for name, share in by_creator.items():
        of_items = sum(item.share for item in answer.items if item.creator == name)
        assert of_items == pytest.approx(share, abs=1e-3)


def test_three_ways_in_give_one_answer(tiny_engine, item_picture):
    from attributary.pictures import decode

    options = Options(top_k=12)
    by_bytes = tiny_engine.attribute(Query(image=item_picture(30)), options)
    by_pixels = tiny_engine.attribute(Query(pixels=decode(item_picture(30))), options)
    embedding = tiny_engine.embed([tiny_engine.prepare(Query(image=item_picture(30)))])[0]
    by_embedding = tiny_engine.attribute(Query(embedding=embedding * 7), options)
    assert by_bytes.items == by_pixels.items
    assert [i.id for i in by_bytes.items] == [i.id for i in by_embedding.items]
    assert by_embedding.diffuse_share == pytest.approx(by_bytes.diffuse_share, abs=1e-4)


def test_embedding_with_prompt_uses_the_prompt_calibration(tiny_engine, item_picture):
    calibration = tiny_engine.bundle.manifest.calibration
    assert calibration.image != calibration.image_and_prompt
    prepared = tiny_engine.prepare(Query(image=item_picture(3), prompt="a red ellipse"))
    embedding = tiny_engine.embed([prepared])[0]
    wanted = tiny_engine.run([prepared])[0]
    got = tiny_engine.attribute(Query(embedding=embedding, has_prompt=True), Options(top_k=1))
    assert got.items[0].share == pytest.approx(wanted.items[0].share, abs=1e-4)
    # Between two pictures: an item's own would have all of either kind of share.
    between = embedding + tiny_engine.embed([tiny_engine.prepare(Query(image=item_picture(40)))])[0]
    with_prompt, without = (
        tiny_engine.attribute(Query(embedding=between, has_prompt=kind), Options(top_k=1))
        for kind in (True, False)
    )
    assert with_prompt.items[0].similarity == without.items[0].similarity
    assert with_prompt.diffuse_share != pytest.approx(without.diffuse_share, rel=1e-4)


def test_a_prompt_of_blanks_is_no_prompt(tiny_engine, item_picture):
    plain = tiny_engine.attribute(Query(image=item_picture(3)))
    blank = tiny_engine.attribute(Query(image=item_picture(3), prompt="  \n "))
    assert blank.items == plain.items
    assert blank.diffuse_share == plain.diffuse_share


def narrowed(engine, candidates, **shares):
    """The same engine with another R, and other share parameters for pictures without a prompt."""
    manifest = engine.bundle.manifest
    calibration = replace(manifest.calibration, image=replace(manifest.calibration.image, **shares))
    manifest = replace(
        manifest, index=replace(manifest.index, candidates=candidates), calibration=calibration
    )
    return Engine(replace(engine.bundle, manifest=manifest), engine.encoder, engine.index)


def same(one, other):
    """Two answers to one query; the encoder rounds differently in a batch."""
    assert [item.id for item in one.items] == [item.id for item in other.items]
    for name in ("share", "similarity"):
        assert [getattr(item, name) for item in one.items] == pytest.approx(
            [getattr(item, name) for item in other.items], abs=1e-4
        )
    assert [(c.creator, c.item_count) for c in one.creators] == [
        (c.creator, c.item_count) for c in other.creators
    ]
    assert [c.share for c in one.creators] == pytest.approx([c.share for c in other.creators], abs=1e-4)
    assert one.diffuse_share == pytest.approx(other.diffuse_share, abs=1e-4)
    assert one.withheld_share == pytest.approx(other.withheld_share, abs=1e-4)
    assert one.out_of_distribution == other.out_of_distribution


def unit(seed, engine):
    """An embedding near an item."""
    rng = np.random.default_rng(seed)
    vector = engine.bundle.vectors[rng.integers(len(engine.bundle.vectors))].astype(np.float32)
    noise = rng.standard_normal(vector.size).astype(np.float32)
    return vector + 0.3 * noise / np.linalg.norm(noise)


# Few are named, with intervals, and shares rise over a margin.
NEAR = {
    "reach": 5,
    "ood_similarity": 0.5,
    "ood_margin": 0.4,
    "interval": ((0.01, 0.0, 0.1), (0.3, 0.1, 0.6)),
}
# What lies out of reach is nobody's many times over, and takes little from those within.
FAR = NEAR | {"reach_cut": 0.7, "reach_null": 40.0}
FILTERS = (
    Filter(),
    Filter(exclude_creators=("Ann",)),
    Filter(include_creators=("Bo",), exclude_licences=("MIT",)),
    Filter(include_licences=("MIT",)),
    Filter(include_creators=("Cy",), exclude_creators=("Cy",)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seeds=st.lists(st.integers(0, 999), min_size=2, max_size=9),
    data=st.data(),
    candidates=st.sampled_from([1, 8, 40, 300]),
    deleted=st.booleans(),
    shares=st.sampled_from(({}, NEAR, FAR)),
)
def test_an_answer_alone_is_the_same_in_any_batch(tiny_engine, seeds, data, candidates, deleted, shares):
    engine = narrowed(tiny_engine, candidates, **shares)
    if deleted:
        engine.snapshot = engine.snapshot.apply(deletion(engine, "Bo"))
    prepared = []
    for seed in seeds:
        options = Options(
            top_k=data.draw(st.integers(1, 250)),
            top_creators=data.draw(st.integers(0, 20)),
            filter=data.draw(st.sampled_from(FILTERS)),
        )
        query = Query(embedding=unit(seed, engine), has_prompt=data.draw(st.booleans()))
        prepared.append(engine.prepare(query, options))
    together = engine.run(prepared)
    for one, answer in zip(prepared, together, strict=True):
        same(engine.run([one])[0], answer)
        total = sum(c.share for c in engine.run([replace(one, top_creators=300)])[0].creators)
        assert total + answer.diffuse_share + answer.withheld_share == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("top_k", [1, 5, 200])
def test_top_k_changes_no_share(tiny_engine, top_k):
    engine = narrowed(tiny_engine, 64)
    query = Query(embedding=unit(3, engine))
    few, many = (engine.attribute(query, Options(top_k=count)) for count in (1, top_k))
    assert few.items[0] == many.items[0]
    assert few.creators == many.creators
    assert len(many.items) == min(top_k, 64), "an answer knows no more items than were re-scored"


def test_pictures_and_prompts_in_a_batch_are_answered_as_alone(tiny_engine, item_picture):
    questions = [
        (Query(image=item_picture(1)), Options(top_k=3)),
        (Query(image=item_picture(2), prompt="a blue ellipse"), Options(top_k=9, top_creators=1)),
        (Query(image=item_picture(4)), Options(filter=Filter(exclude_creators=("Ann",)))),
        (Query(embedding=np.ones(tiny_engine.encoder.spec.dim, np.float32)), Options(top_k=1)),
        (Query(image=item_picture(6)), Options(filter=Filter(include_licences=("MIT",)))),
    ]
    together = tiny_engine.run([tiny_engine.prepare(*question) for question in questions])
    for question, answer in zip(questions, together, strict=True):
        same(tiny_engine.attribute(*question), answer)
        assert answer.timings.batch_size == 5


def deletion(engine, creator):
    """What deleting a creator amounts to."""
    items = engine.bundle.items
    rows = np.flatnonzero(items.creator_of_row == items.creator_codes[creator])
    changes = Changes(engine.snapshot.revision, engine.encoder.spec.dim)
    ids = tuple(items.id_of(int(row)) for row in rows)
    changes.take(Deleted("2026-01-01", "Ada", "opted out", f"creator={creator}", ids))
    return changes


@pytest.mark.parametrize("candidates", [8, 40, 300])
@pytest.mark.parametrize("hidden", [("Ann",), ("Bo", "Cy"), ("Ann", "Bo", "Cy", "Dee")])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("named", [{}, NEAR], ids=["all", "near"])
def test_no_share_rises_under_a_filter_or_a_deletion(tiny_engine, candidates, hidden, seed, named):
    plain = narrowed(tiny_engine, candidates, **named)
    query = Query(embedding=unit(seed, plain))
    everything = Options(top_k=300, top_creators=300)
    before = plain.attribute(query, everything)
    shares = {item.id: item.share for item in before.items}
    totals = {total.creator: total.share for total in before.creators}
    filtered = plain.attribute(query, replace(everything, filter=Filter(exclude_creators=hidden)))
    answers = [filtered]
    if len(hidden) < 4:
        gone = narrowed(tiny_engine, candidates, **named)
        for name in hidden:
            gone.snapshot = gone.snapshot.apply(deletion(gone, name))
        answers.append(gone.attribute(query, everything))
    for answer in answers:
        assert all(item.share <= shares.get(item.id, 0) + 1e-6 for item in answer.items)
        assert all(total.share <= totals[total.creator] + 1e-6 for total in answer.creators)
        assert not {total.creator for total in answer.creators} & set(hidden)
        assert answer.diffuse_share == pytest.approx(before.diffuse_share, abs=1e-6)
        withheld = sum(totals.get(name, 0) for name in hidden)
        assert answer.withheld_share == pytest.approx(withheld, abs=1e-5)
        assert answer.out_of_distribution == before.out_of_distribution
    if len(answers) == 2:
        assert [item.id for item in answers[0].items] == [item.id for item in answers[1].items]


def test_only_so_many_are_named_and_a_larger_index_changes_nothing(tiny_engine):
    few = narrowed(tiny_engine, 40, reach=5)
    many = narrowed(tiny_engine, 300, reach=5)
    for seed in range(5):
        query = Query(embedding=unit(seed, few))
        answer = few.attribute(query, Options(top_k=40, top_creators=40))
        groups = {item.near_dup_group for item in answer.items if item.share > 0}
        assert 0 < len(groups) <= 5
        assert answer.diffuse_share + sum(item.share for item in answer.items) == pytest.approx(1, abs=1e-5)
        same(many.attribute(query, Options(top_k=40, top_creators=40)), answer)


def test_a_creator_s_share_lies_within_its_interval(tiny_engine):
    query = Query(embedding=unit(1, tiny_engine))
    assert all(one.low is None and one.high is None for one in tiny_engine.attribute(query).creators)
    told = narrowed(tiny_engine, 300, interval=((0.0, 0.0, 0.05), (0.5, 0.2, 0.7))).attribute(query).creators
    assert told
    for one in told:
        assert 0 <= one.low <= one.share <= one.high <= 1
        assert one.high == pytest.approx(max(one.share, np.interp(one.share, (0, 0.5), (0.05, 0.7))))


def test_a_stranger_is_given_to_nobody(tiny_engine):
    engine = narrowed(tiny_engine, 40, ood_similarity=1.5)
    answer = engine.attribute(Query(embedding=unit(1, engine)), Options(filter=FILTERS[1]))
    assert answer.out_of_distribution
    assert (answer.diffuse_share, answer.withheld_share, answer.creators) == (1.0, 0.0, ())
    assert len(answer.items) == 10
    assert all(item.share == 0 for item in answer.items)


@pytest.mark.parametrize("list_", ["exclude_creators", "include_creators"])
def test_an_opt_out_breaks_no_other_caller(tiny_engine, list_):
    engine = narrowed(tiny_engine, 40)
    engine.snapshot = engine.snapshot.apply(deletion(engine, "Bo"))
    query = Query(embedding=unit(2, engine))
    filter_ = Filter(**{list_: ("Bo", "Cy")})
    names = {item.creator for item in engine.attribute(query, Options(filter=filter_)).items}
    assert "Bo" not in names
    assert names == {"Cy"} if list_ == "include_creators" else "Cy" not in names


def test_names_that_were_deleted_in_an_earlier_bundle_are_known(tiny_engine):
    engine = narrowed(tiny_engine, 40)
    changes = Changes(1, engine.encoder.spec.dim)
    changes.take(Deleted("2026-01-01", "Ada", "opted out", "creator=Zoe", (77,)))
    changes.take(Deleted("2026-01-01", "Ada", "opted out", "licence=GPL", (78,)))
    engine.snapshot = engine.snapshot.apply(changes)
    gone = Filter(exclude_creators=("Zoe",), exclude_licences=("GPL",))
    query = Query(embedding=unit(2, engine))
    assert engine.attribute(query, Options(filter=gone)).items == engine.attribute(query).items


def test_a_defect_of_the_encoder_is_no_caller_s_fault(tiny_engine, item_picture, monkeypatch):
    encode = type(tiny_engine.encoder).encode
    monkeypatch.setattr(
        type(tiny_engine.encoder), "encode", lambda *given: encode(*given) * np.float32(np.nan)
    )
    with pytest.raises(RuntimeError, match="not finite") as caught:
        tiny_engine.attribute(Query(image=item_picture(0)))
    assert not isinstance(caught.value, AttributaryError)


@pytest.mark.parametrize(
    ("wanted_filter", "passes"),
    [
        (Filter(include_creators=("Bo", "Cy")), lambda item: item.creator in ("Bo", "Cy")),
        (Filter(exclude_creators=("Bo", "Cy", "Dee")), lambda item: item.creator == "Ann"),
        (Filter(include_licences=("MIT",)), lambda item: item.licence == "MIT"),
        (Filter(exclude_licences=("MIT",)), lambda item: item.licence == "CC0-1.0"),
        (
            Filter(include_creators=("Ann", "Bo"), exclude_creators=("Ann",)),
            lambda item: item.creator == "Bo",
        ),
    ],
)
def test_filters_restrict_the_search(tiny_engine, item_picture, wanted_filter, passes):
    prepared = tiny_engine.prepare(Query(image=item_picture(8)), Options(top_k=32, filter=wanted_filter))
    rows, _ = plain_ranking(tiny_engine, tiny_engine.embed([prepared])[0])
    items = tiny_engine.bundle.items
    creators, licences = ([f(row) for row in range(300)] for f in (items.creator, items.licence))
    stand_in = [
        type("Item", (), {"creator": c, "licence": p}) for c, p in zip(creators, licences, strict=True)
    ]
    wanted = [row for row in rows.tolist() if passes(stand_in[row])][:32]
    answer = tiny_engine.run([prepared])[0]
    assert [item.id - 1000 for item in answer.items] == wanted


def test_names_of_a_batch_are_looked_up_once(tiny_engine, monkeypatch):
    looked_up = []
    contains = Codes.__contains__
    monkeypatch.setattr(
        Codes, "__contains__", lambda self, name: looked_up.append(name) or contains(self, name)
    )
    options = Options(filter=Filter(exclude_creators=("Bo", " Cy ") * 500))
    engine = Engine(tiny_engine.bundle, tiny_engine.encoder, tiny_engine.index)
    for seed in range(20):
        engine.prepare(Query(embedding=unit(seed, engine)), options)
    assert len(looked_up) == 1000
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match="Zoe"):
            engine.prepare(
                Query(embedding=unit(0, engine)), Options(filter=Filter(exclude_creators=("Zoe",)))
            )


class Deaf:
    """An index elsewhere that knows nothing of filters and deletions, or of another bundle's."""

    def __init__(self, index):
        self._index = index

    def search(self, queries, count, allowed=None):
        return self._index.search(queries, count)


@pytest.mark.parametrize("deleted", [False, True])
def test_an_index_that_does_not_listen_shows_nothing_that_is_hidden(tiny_engine, item_picture, deleted):
    engine = narrowed(tiny_engine, 20)
    engine = Engine(engine.bundle, engine.encoder, Deaf(engine.index))
    options = Options(top_k=20)
    if deleted:
        engine.snapshot = engine.snapshot.apply(deletion(engine, "Bo"))
    else:
        options = replace(options, filter=Filter(exclude_creators=("Bo",)))
    for number in range(0, 40, 7):
        answer = engine.attribute(Query(image=item_picture(number)), options)
        assert answer.items
        assert "Bo" not in {item.creator for item in answer.items}


def test_a_filter_that_nothing_passes_withholds_all_that_is_somebody_s(tiny_engine, item_picture):
    nobody = Filter(include_creators=("Ann",), exclude_creators=("Ann",))
    answer = tiny_engine.attribute(Query(image=item_picture(8)), Options(filter=nobody))
    plain = tiny_engine.attribute(Query(image=item_picture(8)))
    assert (answer.items, answer.creators) == ((), ())
    assert answer.diffuse_share == plain.diffuse_share
    assert answer.withheld_share == pytest.approx(1 - plain.diffuse_share, abs=1e-6)
    assert not answer.out_of_distribution


def test_out_of_distribution_does_not_depend_on_the_filter(tiny_engine, item_picture):
    foreign = -tiny_engine.bundle.vectors.astype(np.float32).mean(axis=0)
    assert tiny_engine.attribute(Query(embedding=foreign)).out_of_distribution
    only = Options(filter=Filter(include_creators=("Bo",)))
    assert tiny_engine.attribute(Query(embedding=foreign), only).out_of_distribution
    assert not tiny_engine.attribute(Query(image=item_picture(0)), only).out_of_distribution


def test_the_diffuse_floor_is_nobody_s_whatever_the_picture(tiny_engine, item_picture):
    query, options = Query(image=item_picture(9)), Options(top_k=200, top_creators=10)
    before = narrowed(tiny_engine, 300).attribute(query, options)
    after = narrowed(tiny_engine, 300, diffuse_floor=0.25).attribute(query, options)
    assert [item.share for item in after.items] == pytest.approx([0.75 * item.share for item in before.items])
    assert after.diffuse_share == pytest.approx(0.25 + 0.75 * before.diffuse_share)
    assert sum(one.share for one in after.creators) + after.diffuse_share == pytest.approx(1.0, abs=1e-3)
