"""The core's answers, against a plain NumPy account of what they should be."""

from dataclasses import replace

import numpy as np
import pytest

from attributary.attribution.answers import assemble
from attributary.attribution.types import Filter, Limits, Options, Query
from attributary.errors import InvalidArgumentError, NotFoundError


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
    from attributary.encoder.image import decode

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


def test_answers_do_not_depend_on_the_batch(tiny_engine, item_picture):
    questions = [
        (Query(image=item_picture(1)), Options(top_k=3)),
        (Query(image=item_picture(2), prompt="a blue ellipse"), Options(top_k=9, top_creators=1)),
        (Query(image=item_picture(4)), Options(filter=Filter(exclude_creators=("Ann",)))),
        (Query(embedding=np.ones(tiny_engine.encoder.spec.dim, np.float32)), Options(top_k=1)),
        (Query(image=item_picture(6)), Options(filter=Filter(include_licences=("MIT",)))),
    ]
    together = tiny_engine.run([tiny_engine.prepare(*question) for question in questions])
    for question, answer in zip(questions, together, strict=True):
        alone = tiny_engine.attribute(*question)
        assert [item.id for item in alone.items] == [item.id for item in answer.items]
        assert [item.share for item in alone.items] == pytest.approx(
            [item.share for item in answer.items], abs=1e-4
        )
        assert [c.creator for c in alone.creators] == [c.creator for c in answer.creators]
        assert answer.timings.batch_size == 5


@pytest.mark.parametrize(
    ("given", "passes"),
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
def test_filters_restrict_the_search(tiny_engine, item_picture, given, passes):
    prepared = tiny_engine.prepare(Query(image=item_picture(8)), Options(top_k=40, filter=given))
    rows, _ = plain_ranking(tiny_engine, tiny_engine.embed([prepared])[0])
    items = tiny_engine.bundle.items
    creators, licences = ([f(row) for row in range(300)] for f in (items.creator, items.licence))
    stand_in = [
        type("Item", (), {"creator": c, "licence": p}) for c, p in zip(creators, licences, strict=True)
    ]
    wanted = [row for row in rows.tolist() if passes(stand_in[row])][:40]
    answer = tiny_engine.run([prepared])[0]
    assert [item.id - 1000 for item in answer.items] == wanted


def test_filter_that_nothing_passes_gives_an_empty_diffuse_answer(tiny_engine, item_picture):
    nobody = Filter(include_creators=("Ann",), exclude_creators=("Ann",))
    answer = tiny_engine.attribute(Query(image=item_picture(8)), Options(filter=nobody))
    assert (answer.items, answer.creators, answer.diffuse_share) == ((), (), 1.0)
    assert not answer.out_of_distribution


def test_out_of_distribution_does_not_depend_on_the_filter(tiny_engine, item_picture):
    foreign = -tiny_engine.bundle.vectors.astype(np.float32).mean(axis=0)
    assert tiny_engine.attribute(Query(embedding=foreign)).out_of_distribution
    only = Options(filter=Filter(include_creators=("Bo",)))
    assert tiny_engine.attribute(Query(embedding=foreign), only).out_of_distribution
    assert not tiny_engine.attribute(Query(image=item_picture(0)), only).out_of_distribution


DIM = 209


@pytest.mark.parametrize(
    ("query", "options", "field", "words"),
    [
        (Query(), Options(), "query", "exactly one of image, pixels, embedding must be given, got none"),
        (Query(image=b"x", embedding=np.ones(DIM)), Options(), "query", "got image, embedding"),
        (Query(embedding=np.ones(3)), Options(), "query.embedding", "must have 209 values, got 3"),
        (Query(embedding=np.ones((1, DIM))), Options(), "query.embedding", r"shape \(1, 209\)"),
        (Query(embedding=np.full(DIM, np.nan)), Options(), "query.embedding", "finite"),
        (Query(embedding=np.full(DIM, np.inf)), Options(), "query.embedding", "finite"),
        (Query(embedding=np.zeros(DIM)), Options(), "query.embedding", "all zero"),
        (Query(embedding=np.ones(DIM), prompt="x"), Options(), "query.prompt", "must be empty"),
        (Query(image=b""), Options(), "query.image", "empty"),
        (Query(pixels=np.zeros((0, 4, 3), np.uint8)), Options(), "query.pixels", "at least 1"),
        (Query(pixels=np.zeros((4, 4), np.uint8)), Options(), "query.pixels", "uint8 RGB"),
        (Query(pixels=np.zeros((4, 4, 3), np.float32)), Options(), "query.pixels", "uint8 RGB"),
        (Query(pixels=np.zeros((300, 300, 3), np.uint8)), Options(), "query.pixels", "the limit is 80000"),
        (Query(image=b"x", prompt="é" * 600), Options(), "query.prompt", "1200 bytes, the limit is 1000"),
        (Query(image=b"x"), Options(top_k=0), "options.top_k", "from 1 to 50"),
        (Query(image=b"x"), Options(top_k=-3), "options.top_k", "got -3"),
        (Query(image=b"x"), Options(top_k=51), "options.top_k", "the server's limit"),
        (Query(image=b"x"), Options(top_creators=-1), "options.top_creators", "got -1"),
        (
            Query(image=b"x"),
            Options(filter=Filter(include_creators=("Eve",))),
            "options.filter.include_creators",
            "no item has the creator 'Eve'",
        ),
        (
            Query(image=b"x"),
            Options(filter=Filter(exclude_licences=("GPL",))),
            "options.filter.exclude_licences",
            "no item has the licence 'GPL'",
        ),
    ],
)
def test_refusals_name_the_field_and_the_limit(tiny_engine, query, options, field, words):
    limits = Limits(max_image_pixels=80_000, max_prompt_bytes=1_000, max_top_k=50)
    engine = type(tiny_engine)(tiny_engine.bundle, tiny_engine.encoder, tiny_engine.index, limits)
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        engine.prepare(query, options)
    assert caught.value.field == field


def test_top_k_above_the_corpus_says_how_many_items_there_are(tiny_engine, item_picture):
    with pytest.raises(InvalidArgumentError, match="this bundle has 300 items"):
        tiny_engine.prepare(Query(image=item_picture(0)), Options(top_k=301))
    assert len(tiny_engine.attribute(Query(image=item_picture(0)), Options(top_k=300)).items) == 300


def test_large_finite_embeddings_do_not_overflow(tiny_engine):
    huge = np.full(DIM, 3e38, np.float32)
    assert (
        tiny_engine.attribute(Query(embedding=huge)).items
        == tiny_engine.attribute(Query(embedding=np.ones(DIM, np.float32))).items
    )


def test_unknown_item_is_named(tiny_engine):
    assert tiny_engine.row_of(1005) == 5
    with pytest.raises(NotFoundError, match="no such item: 5"):
        tiny_engine.row_of(5)


def test_empty_batch(tiny_engine):
    assert tiny_engine.run([]) == []


def test_the_diffuse_floor_is_nobody_s_whatever_the_picture(tiny_engine, item_picture):
    query, options = Query(image=item_picture(9)), Options(top_k=200, top_creators=10)
    plain = tiny_engine.attribute(query, options)
    bundle = tiny_engine.bundle
    calibration = bundle.manifest.calibration
    floor = replace(calibration, image=replace(calibration.image, diffuse_floor=0.25))
    with_floor = replace(bundle, manifest=replace(bundle.manifest, calibration=floor))
    prepared = tiny_engine.prepare(query, options)
    embedding = tiny_engine.embed([prepared])
    scored = tiny_engine.view.rescore(
        embedding, np.arange(300)[None], None,
        temperature=np.array([calibration.image.temperature], np.float32),
        threshold=np.array([calibration.image.threshold], np.float32),
        background=np.array([calibration.image.background], np.float32),
        top_k=200, top_creators=10,
    )  # fmt: skip
    before, after = (assemble(one, prepared, scored, 0, 1.0) for one in (bundle, with_floor))
    assert [item.id for item in before.items] == [item.id for item in plain.items]
    assert [item.share for item in after.items] == pytest.approx([0.75 * item.share for item in before.items])
    assert after.diffuse_share == pytest.approx(0.25 + 0.75 * before.diffuse_share)
    assert sum(one.share for one in after.creators) + after.diffuse_share == pytest.approx(1.0, abs=1e-3)
