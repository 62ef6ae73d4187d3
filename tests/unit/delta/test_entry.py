"""Credit cannot be bought with additions: copies are known, newcomers wait, captions weigh little."""

import io
from datetime import timedelta

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.building import build_bundle
from attributary.bundle.bundle import Bundle
from attributary.delta.entry import CONTRIBUTOR, Terms
from attributary.delta.held import held_in
from attributary.delta.items import NewItem
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import AlreadyExistsError, InvalidArgumentError, OverloadedError, PreconditionError
from attributary.pictures.looks import Newcomer, is_flat, look_of

BY = {"who": "kim", "why": "a test"}
WIDE = Options(top_k=32, top_creators=9)


def scene(seed):
    """A picture of many shapes, 64 px: nothing plain about it."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(picture)
    for _ in range(7):
        left, top = rng.integers(0, 44, 2)
        width, height = rng.integers(8, 20, 2)
        colour = tuple(int(level) for level in rng.integers(0, 200, 3))
        draw.rectangle((int(left), int(top), int(left + width), int(top + height)), fill=colour)
    return picture


def noised(picture):
    levels = np.asarray(picture).astype(float) + np.random.default_rng(1).normal(0, 25, (64, 64, 3))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def jpeg(picture):
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=25)
    return Image.open(kept).convert("RGB")


CHANGES = {
    "noise": noised,
    "jpeg": jpeg,
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "inverted": ImageOps.invert,
    "turned by a quarter": lambda picture: picture.rotate(90),
    "turned a little": lambda picture: picture.rotate(4, Image.Resampling.BILINEAR, fillcolor="white"),
    "darker": lambda picture: picture.point(lambda level: int(level * 0.7)),
    "with a border": lambda picture: ImageOps.expand(picture, 8, "white"),
    "cropped": lambda picture: picture.crop((2, 2, 62, 62)),
}


def encoded(picture):
    kept = io.BytesIO()
    picture.save(kept, "PNG")
    return kept.getvalue()


def item(number, picture, creator="Eve", **fields):
    return NewItem(number, encoded(picture), **{"caption": "a red ellipse", "creator": creator, **fields})


@pytest.fixture
def seeded(store):
    """A store with one scene of Ann's, id 5."""
    assert store.add([item(5, scene(1), "Ann")], **BY).outcomes == [None]
    return store


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_known(name):
    small = np.asarray(CHANGES[name](scene(1)).resize((32, 32), Image.Resampling.BICUBIC))
    known = np.stack([look_of(np.asarray(scene(seed).resize((32, 32)))) for seed in range(40)])
    assert [match.row for match in Newcomer(small).among(known)] == [1]


def test_a_picture_of_one_colour_has_no_look_and_is_like_nothing():
    white = np.full((32, 32, 3), 255, np.uint8)
    assert is_flat(look_of(white))
    assert Newcomer(white).among(np.zeros((3, *look_of(white).shape), np.int8)) == []


@pytest.mark.parametrize("name", CHANGES)
def test_a_contributed_copy_of_anothers_picture_waits(seeded, name):
    result = seeded.add([item(6, CHANGES[name](scene(1)), "Bo", caption="x")], terms=CONTRIBUTOR, **BY)
    assert result.outcomes == [None]
    assert result.held == ["looks like item 5 of another creator, which is older"]
    assert seeded.snapshot.bundle.items.row_of(6) is None


def test_copies_in_one_delivery_are_known_too(seeded):
    batch = [item(6, scene(2), "Ann"), item(7, noised(scene(2)), "Bo")]
    assert seeded.add(batch, terms=CONTRIBUTOR, **BY).held == [
        "",
        "looks like item 6 of another creator, which is older",
    ]


def test_an_operators_copy_shares_the_credit_of_one(seeded):
    query = Query(image=encoded(scene(1)), prompt="a red ellipse")
    alone = seeded.engine.attribute(query, WIDE)
    copies = [item(6 + number, noised(scene(1)), "Bo") for number in range(9)]
    assert seeded.add(copies, **BY).held == [""] * 9
    after = seeded.engine.attribute(query, WIDE)
    groups = {
        seeded.snapshot.bundle.items.near_dup_group(seeded.snapshot.row_of(number)) for number in range(5, 15)
    }
    assert len(groups) == 1
    together = sum(one.share for one in after.items if one.id in range(5, 15))
    assert together == pytest.approx(alone.items[0].share, abs=0.02)
    assert after.diffuse_share == pytest.approx(alone.diffuse_share, abs=0.02)


def test_own_variants_of_a_contributor_count_once(seeded):
    batch = [item(6 + number, change(scene(1)), "Ann") for number, change in enumerate((noised, jpeg))]
    assert seeded.add(batch, terms=CONTRIBUTOR, **BY).held == ["", ""]
    items = seeded.snapshot.bundle.items
    assert len({items.near_dup_group(seeded.snapshot.row_of(number)) for number in (5, 6, 7)}) == 1


def test_a_copy_of_a_deleted_item_waits_and_raises_nobody(seeded):
    query = Query(image=encoded(scene(1)), prompt="a red ellipse")
    seeded.delete(Selection(ids=(5,)), **BY)
    before = seeded.engine.attribute(query, WIDE)
    assert (
        seeded.add([item(6, scene(1), "Bo")], terms=CONTRIBUTOR, **BY).held[0].startswith("looks like item 5")
    )
    assert seeded.engine.attribute(query, WIDE).items == before.items
    seeded.compact(**BY)
    # Its vector and its look are left; its name and its id are not.
    copy = item(8, noised(scene(1)), "Bo", caption="other words")
    assert seeded.add([copy], terms=CONTRIBUTOR, **BY).held == ["looks like an item that was deleted"]
    # Nor is it known by an id that may be another item's.
    assert seeded.held[-1].like is None
    assert seeded.add([item(7, scene(1), "Bo")], terms=Terms(bring_back=True), **BY).outcomes == [None]
    again = seeded.engine.attribute(query, WIDE)
    assert sum(one.share for one in again.items if one.id == 7) <= before.withheld_share


def test_new_creators_and_empty_pictures_wait(seeded):
    white = Image.new("RGB", (64, 64), "white")
    batch = [item(6, scene(2), "Nobody yet"), item(7, white, "Ann"), item(8, scene(3), "Ann")]
    held = seeded.add(batch, terms=CONTRIBUTOR, **BY).held
    assert held == ["the creator is new here", "the picture shows nothing", ""]
    assert [record.items[0].id for record in seeded.held] == [6, 7]


def test_a_contribution_may_not_declare_what_it_does_not_look_like(seeded):
    held = seeded.add([item(6, scene(2), "Ann", near_dup_of=5)], terms=CONTRIBUTOR, **BY).held
    assert held == ["is declared a near duplicate and does not look like it"]


def test_looking_like_one_item_lets_nobody_into_the_group_of_another(seeded):
    """Whoever is in a group shares its credit: a variant of one's own does not open the group of somebody else's."""
    seeded.add([item(6, scene(2), "Eve")], **BY)
    batch = [item(7, noised(scene(2)), "Eve", near_dup_of=5), item(8, jpeg(scene(2)), "Eve", near_dup_of=6)]
    held = seeded.add(batch, terms=CONTRIBUTOR, **BY).held
    assert held == ["is declared a near duplicate and does not look like it", ""]
    items, row = seeded.snapshot.bundle.items, seeded.snapshot.row_of
    assert items.near_dup_group(row(8)) == items.near_dup_group(row(6)) != items.near_dup_group(row(5))


def test_a_caption_moves_a_contribution_by_its_part_of_the_way(seeded):
    said = item(6, scene(2), "Ann", caption="a green rectangle")
    embedder = seeded._embedder
    shown, tokens = embedder.prepare(said)
    full, bare = embedder.embed([(shown, tokens), (shown, tokens[:0])]).astype(np.float32)
    seeded.add([said], terms=Terms(caption_weight=0.25), **BY)
    vector = seeded.snapshot.vectors_of(np.array([seeded.snapshot.row_of(6)]))[0].astype(np.float32)
    wanted = 0.75 * bare + 0.25 * full
    assert vector == pytest.approx(wanted / np.linalg.norm(wanted), abs=2e-3)
    assert vector @ bare > full @ bare


def test_a_contributor_has_so_many_items_a_day(seeded):
    terms = {"terms": Terms(items_a_day=2), "why": "x"}
    six, seven, eight = (item(number, scene(number), "Ann") for number in (6, 7, 8))
    assert seeded.add([six], who="rival", **terms).outcomes == [None]
    # As many as there may be enter; a repetition and what is no picture are none.
    broken = NewItem(9, b"no picture", "a red ellipse", "Ann")
    outcomes = seeded.add([broken, six, seven, eight, seven], who="rival", **terms).outcomes
    assert (outcomes[0].field, outcomes[1], outcomes[2], outcomes[4]) == ("item.image", None, None, None)
    assert isinstance(outcomes[3], OverloadedError) and "rival may add 2 items a day" in str(outcomes[3])
    assert outcomes[3].retry_after_s > 80_000
    assert seeded.add([eight], who="another", **terms).outcomes == [None]


def test_what_waits_counts_as_what_entered(seeded):
    terms = {"terms": Terms(hold=True, items_a_day=1), "who": "rival", "why": "x"}
    assert seeded.add([item(6, scene(2), "Nobody yet")], **terms).held == ["the creator is new here"]
    assert isinstance(seeded.add([item(7, scene(3), "Ann")], **terms).outcomes[0], OverloadedError)


@pytest.mark.parametrize("then", ["release", "refuse", "delete"])
def test_what_no_longer_waits_still_counts(then, seeded, bundle_dir, monkeypatch):
    terms = {"terms": Terms(hold=True, items_a_day=1), "who": "rival", "why": "x"}
    sent = item(6, scene(2), "Nobody yet")
    assert seeded.add([sent], **terms).held == ["the creator is new here"]
    if then == "delete":
        seeded.delete(Selection(ids=(6,)), **BY)
    else:
        getattr(seeded, then)([6], **BY)
    again = sent if then != "release" else item(7, scene(3), "Ann")
    assert isinstance(seeded.add([again], **terms).outcomes[0], OverloadedError)
    # Another item waits over the compaction.
    seeded.add([item(8, noised(scene(1)), "Bo")], terms=CONTRIBUTOR, **BY)
    seeded.compact(**BY)
    assert isinstance(seeded.add([again], **terms).outcomes[0], OverloadedError)
    seeded.close()
    assert b"Nobody yet" not in (bundle_dir / "delta" / "held.journal").read_bytes()
    with Store(bundle_dir, open_engine) as store:
        assert isinstance(store.add([again], **terms).outcomes[0], OverloadedError)
        assert [one.items[0].id for one in store.held] == [8]
        # The id of one that was refused is free.
        assert store.add([again], **terms | {"who": "another"}).outcomes == [None]
        monkeypatch.setattr("attributary.delta.held.DAY", timedelta(0))
        store.delete(Selection(ids=(1000,)), **BY)
        store.compact(**BY)
        # Nobody is remembered for longer than it takes.
        assert {one.id for one in store._held.came} == {one.items[0].id for one in store.held}


def test_what_is_refused_for_its_id_or_number_is_not_decoded(seeded, monkeypatch):
    terms = {"terms": Terms(items_a_day=1), "who": "rival", "why": "x"}
    seeded.add([item(6, scene(2), "Ann")], **terms)
    seeded.delete(Selection(ids=(5,)), **BY)

    def read(item):
        raise AssertionError(f"item {item.id} was read")

    monkeypatch.setattr(seeded._embedder, "prepare", read)
    beyond, deleted, another = item(7, scene(3), "Ann"), item(5, scene(1), "Ann"), item(6, scene(2), "Bo")
    found = seeded.add([beyond, deleted, another], **terms).outcomes
    assert [type(one) for one in found] == [OverloadedError, InvalidArgumentError, AlreadyExistsError]
    monkeypatch.setattr(seeded, "_max_added", 1)
    with pytest.raises(PreconditionError, match="compact first"):
        seeded.add([beyond], **BY)


def test_what_waits_survives_a_restart_and_a_compaction_and_can_be_released(seeded, bundle_dir):
    copy, new = item(6, noised(scene(1)), "Bo"), item(7, scene(2), "Nobody yet")
    seeded.add([copy, new], terms=CONTRIBUTOR, **BY)
    assert seeded.add([copy], terms=CONTRIBUTOR, **BY).held == [
        "looks like item 5 of another creator, which is older"
    ]
    with pytest.raises(InvalidArgumentError, match="item 9 does not wait"):
        seeded.release([9], **BY)
    seeded.compact(**BY)
    assert set(held_in(bundle_dir, Bundle.open(bundle_dir).manifest)) == {6, 7}
    seeded.close()
    with Store(bundle_dir, open_engine) as store:
        assert isinstance(store.add([item(6, scene(3), "Bo")], **BY).outcomes[0], AlreadyExistsError)
        assert store.release([6, 7], **BY) == store.snapshot.revision
        assert store.held == []
        items = store.snapshot.bundle.items
        row = store.snapshot.row_of
        assert items.near_dup_group(row(6)) == items.near_dup_group(row(5)) != items.near_dup_group(row(7))
    with Store(bundle_dir, open_engine) as store:
        assert (store.held, store.snapshot.item_count) == ([], 63)


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_released_together_counts_once(seeded, at_once):
    changes = [lambda picture: picture, noised, jpeg, ImageOps.invert]
    batch = [item(6 + number, change(scene(2)), "Flo") for number, change in enumerate(changes)]
    batch.append(item(20, scene(3), "Flo"))
    assert seeded.add(batch[:2], terms=CONTRIBUTOR, **BY).held == ["the creator is new here"] * 2
    assert seeded.add(batch[2:], terms=CONTRIBUTOR, **BY).held == ["the creator is new here"] * 3
    for ids in [(20, 9, 6, 7, 8)] if at_once else [(20,), (7,), (8, 6), (9,)]:
        seeded.release(ids, **BY)
    groups = [
        seeded.snapshot.bundle.items.near_dup_group(seeded.snapshot.row_of(number))
        for number in (5, 6, 7, 8, 9, 20)
    ]
    # One that is inverted is another picture of the same creator's.
    assert len(set(groups)) == 4
    assert groups[1] == groups[2] == groups[3]
    query = Query(image=encoded(scene(2)), prompt="a red ellipse")
    found = seeded.engine.attribute(query, WIDE)
    seeded.delete(Selection(ids=(7, 8)), **BY)
    alone = seeded.engine.attribute(query, WIDE)
    assert sum(one.share for one in found.items if one.id in (6, 7, 8)) == pytest.approx(
        sum(one.share for one in alone.items if one.id == 6) + alone.withheld_share, abs=1e-5
    )


def test_what_was_added_while_it_waited_shares_its_credit(seeded):
    assert seeded.add([item(6, scene(2), "Flo")], terms=CONTRIBUTOR, **BY).held == ["the creator is new here"]
    assert seeded.add([item(7, jpeg(scene(2)), "Ann")], **BY).held == [""]
    seeded.release((6,), **BY)
    items = seeded.snapshot.bundle.items
    groups = {items.near_dup_group(seeded.snapshot.row_of(number)) for number in (6, 7)}
    assert len(groups) == 1


def test_an_opt_out_reaches_what_waits(seeded):
    seeded.add([item(6, scene(2), "Nobody yet"), item(7, scene(3), "Nobody else")], terms=CONTRIBUTOR, **BY)
    done = seeded.delete(Selection(creator="Nobody yet"), **BY)
    assert (done.ids, done.held) == ((), (6,))
    seeded.refuse([7], **BY)
    assert seeded.held == []


def test_a_crash_between_release_and_forgetting_leaves_no_second_item(seeded, bundle_dir, monkeypatch):
    seeded.add([item(6, scene(2), "Nobody yet")], terms=CONTRIBUTOR, **BY)
    monkeypatch.setattr(type(seeded._held), "drop", lambda *_: None)
    seeded.release([6], **BY)
    monkeypatch.undo()
    seeded.close()
    with Store(bundle_dir, open_engine) as store:
        assert (store.held, store.snapshot.row_of(6)) == ([], store.snapshot.row_of(6))


def test_a_corpus_without_groups_gets_them_by_the_same_rule(tiny_encoder_dir, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pictures = [
        *(scene(number) for number in range(20)),
        noised(scene(3)),
        ImageOps.mirror(scene(4)),
        scene(5),
    ]
    rows = []
    for number, picture in enumerate(pictures):
        picture.save(corpus / f"{number}.png")
        creator = "Ann" if number < 20 else "Bo"
        rows.append({"id": number, "caption": "a red ellipse", "creator": creator, "file": f"{number}.png"})
    pq.write_table(pa.Table.from_pylist(rows), corpus / "items.parquet")
    build_bundle(corpus, tiny_encoder_dir, tmp_path / "bundle", probes=8, workers=1)
    bundle = Bundle.open(tmp_path / "bundle")
    groups = bundle.items.near_dup_groups
    assert groups[20:].tolist() == [3, 4, 5]
    assert groups[:20].tolist() == list(range(20))
    assert bundle.looks is not None
