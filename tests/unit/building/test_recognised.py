"""A student's bundle: whoever asks with an item's own picture sees that item first, and shares stay what they are."""

import io
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from attributary.attribution.open import open_engine
from attributary.attribution.score import Scores
from attributary.attribution.types import Filter, Options, Query
from attributary.building import build_from_student
from attributary.cli.bundle import bundle_group
from attributary.delta.items import NewItem
from attributary.delta.journal.records import Changes, Deleted
from attributary.delta.selection import Selection
from attributary.delta.store import Store

COUNT, CANDIDATES = 120, 50
PROMPTS = ("", "a red ellipse", "something else altogether")


@pytest.fixture(scope="module")
def student(students, tiny_bundle_dir, tiny_encoder_dir, tmp_path_factory):
    """Vectors of other items than their own: what a picture shows says nothing about where its item is."""
    ids, vectors = students.vectors_of(tiny_bundle_dir)
    moved = np.roll(vectors[:COUNT], 17, axis=0)
    folder = tmp_path_factory.mktemp("students") / "moved"
    return students.write_student(folder, tiny_encoder_dir, ids[:COUNT], moved, candidates=CANDIDATES)


@pytest.fixture(scope="module")
def asked(students, picture, tmp_path_factory):
    return students.write_queries(tmp_path_factory.mktemp("asked") / "q", [picture(n) for n in (1, 4, 7, 30)])


@pytest.fixture(scope="module")
def bundle(student, asked, tiny_corpus_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "moved"
    build_from_student(student, tiny_corpus_dir, asked, out)
    return out


@pytest.fixture(scope="module")
def engine(bundle):
    return open_engine(bundle)


def jpeg(data):
    stream = io.BytesIO()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS).save(
        stream, "JPEG", quality=60
    )
    return stream.getvalue()


def whole(answer):
    """Shares shown, diffuse and withheld."""
    return sum(one.share for one in answer.creators) + answer.diffuse_share + answer.withheld_share


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("changed", [lambda data: data, jpeg])
def test_every_item_is_first_for_its_own_picture(engine, picture, prompt, changed):
    for number in range(COUNT):
        answer = engine.attribute(Query(image=changed(picture(number)), prompt=prompt), Options(top_k=3))
        assert answer.items[0].id == 1000 + number
        assert not answer.out_of_distribution
        assert answer.items[0].share >= max(one.share for one in answer.items) > 0
        similarity = [one.similarity for one in answer.items]
        assert similarity == sorted(similarity, reverse=True)


def test_shares_add_up_and_at_most_r_items_are_named(engine, picture):
    options = Options(top_k=COUNT, top_creators=10)
    count = engine.snapshot.candidate_count
    assert count < COUNT
    for number in range(0, COUNT, 7):
        answer = engine.attribute(Query(image=picture(number)), options)
        assert whole(answer) == pytest.approx(1.0, abs=1e-5)
        assert len({one.id for one in answer.items}) == len(answer.items) == count


def test_alone_and_among_others_the_answer_is_one(engine, picture):
    queries = [Query(image=picture(number), prompt=PROMPTS[number % 3]) for number in (3, 200, 5, 299, 250)]
    alone = [engine.run([engine.prepare(query)])[0] for query in queries]
    together = engine.run([engine.prepare(query) for query in queries])
    for one, other in zip(alone, together, strict=True):
        assert [(item.id, item.share) for item in one.items] == [
            (item.id, pytest.approx(item.share, abs=1e-5)) for item in other.items
        ]
    # No items of the bundle: nothing is recognised, and the index alone decides.
    assert [bool(engine.prepare(query).showing.size) for query in queries] == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_the_answer_does_not_depend_on_the_engine(engine, picture):
    """As Triton's: candidates come with similarities."""
    batch = [engine.prepare(Query(image=picture(number)), Options(top_k=5)) for number in (3, 200)]
    embeddings = engine.embed(batch)
    found = engine.snapshot.ranked(embeddings, engine.snapshot.candidates(embeddings).rows)
    for one, other in zip(engine.run(batch), Scores(engine.snapshot, batch, found).answers(), strict=True):
        assert (one.items, one.creators, one.diffuse_share) == (
            other.items,
            other.creators,
            other.diffuse_share,
        )


def test_hiding_or_deleting_the_item_raises_nobody(bundle, picture):
    engine = open_engine(bundle)
    query, options = Query(image=picture(11)), Options(top_k=CANDIDATES, top_creators=10)
    before = engine.attribute(query, options)
    own = before.items[0]
    shares = {one.id: one.share for one in before.items}
    hidden = Filter(exclude_creators=(own.creator,))
    filtered = engine.attribute(query, Options(top_k=20, filter=hidden))
    changes = Changes(1, engine.bundle.manifest.encoder.dim)
    changes.take(Deleted("2026-01-01T00:00:00Z", "op", "", "", (own.id,)))
    engine.snapshot = engine.snapshot.apply(changes)
    deleted = engine.attribute(query, options)
    assert deleted.withheld_share == pytest.approx(own.share, abs=1e-6)
    for answer in (filtered, deleted):
        assert own.id not in {one.id for one in answer.items}
        assert whole(answer) == pytest.approx(1.0, abs=1e-5)
        for one in answer.items:
            assert one.share == pytest.approx(shares.get(one.id, 0.0), abs=1e-6)


def test_what_a_deleted_item_withheld_stays_withheld_when_it_has_been_compacted_away(
    bundle, picture, tmp_path
):
    place = shutil.copytree(bundle, tmp_path / "bundle")
    gone = {number: 1000 + number for number in (3, 11, 40)}
    with Store(place, open_engine) as store:
        options = Options(top_k=store.snapshot.candidate_count, top_creators=10)

        def answers():
            return [store.engine.attribute(Query(image=picture(number)), options) for number in (*gone, 5)]

        before = answers()
        store.delete(Selection(ids=tuple(gone.values())), who="kim", why="x")
        for _ in range(2):
            for was, now in zip(before, answers(), strict=True):
                shares = {item.id: item.share for item in was.items}
                lost = sum(share for number, share in shares.items() if number in gone.values())
                assert now.withheld_share == pytest.approx(lost, abs=1e-4)
                for item in now.items:
                    assert item.share == pytest.approx(shares.get(item.id, 0.0), abs=1e-4)
            store.compact(who="kim", why="x")
        # With the vector its look goes as well.
        store.compact(who="kim", why="x", erase=True)
        assert len(store.snapshot.bundle.looks) == COUNT - len(gone)


def test_a_table_of_items_carries_what_they_look_like(student, asked, tiny_corpus_dir, bundle, tmp_path):
    words = ["items", "--student", student, "--corpus", tiny_corpus_dir, "--out", tmp_path / "items.parquet"]
    assert CliRunner().invoke(bundle_group, [str(word) for word in words]).exit_code == 0
    build_from_student(student, tmp_path / "items.parquet", asked, tmp_path / "alone")
    assert np.array_equal(open_engine(tmp_path / "alone").bundle.looks, open_engine(bundle).bundle.looks)
    assert "look" not in pq.read_schema(tmp_path / "alone" / "items.parquet").names


def test_vectors_that_an_encoder_made_are_not_overruled(tiny_engine, picture):
    assert tiny_engine.bundle.looks is not None
    assert not tiny_engine.prepare(Query(image=picture(3))).showing.size


def test_a_students_items_are_recognised_where_its_encoder_placed_them(
    students, student, asked, tiny_corpus_dir, picture, tmp_path
):
    folder = shutil.copytree(student, tmp_path / "student")
    students.write_facts(folder, vectors_made_by="encoder")
    build_from_student(folder, tiny_corpus_dir, asked, tmp_path / "bundle")
    engine = open_engine(tmp_path / "bundle")
    for number in range(0, COUNT, 11):
        answer = engine.attribute(Query(image=picture(number), prompt=PROMPTS[2]), Options(top_k=1))
        assert answer.items[0].id == 1000 + number
    (row,) = engine.prepare(Query(image=picture(5))).showing
    with Store(tmp_path / "bundle", open_engine) as store:
        store.add([NewItem(1, picture(200), caption="new", creator="Eve")], who="me", why="new")
        # A deleted item's picture goes on being its own: what it holds is withheld.
        store.delete(Selection(ids=(1005,)), who="me", why="opted out")
    engine = open_engine(tmp_path / "bundle")
    assert engine.prepare(Query(image=picture(200))).showing.tolist() == [COUNT]
    assert engine.prepare(Query(image=picture(5))).showing.tolist() == [row]
