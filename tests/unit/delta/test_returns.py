"""What was deleted does not come back unseen: neither under another id, nor as another file of the same picture."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import ImageOps

from attributary.attribution.open import open_engine
from attributary.bundle.bundle import LOOKS
from attributary.bundle.manifest import Manifest
from attributary.cli.main import cli
from attributary.delta.entry import CONTRIBUTOR, Terms
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import PreconditionError
from attributary.pictures.looks import look_of, mirror_image
from attributary.pictures.recognise import Known, Shown

from .test_entry import encoded, item, noised, scene

BY = {"who": "kim", "why": "a test"}
BACK = Terms(bring_back=True)


def written(picture, kind="JPEG", **options):
    kept = io.BytesIO()
    picture.save(kept, kind, **options)
    return kept.getvalue()


def large(picture):
    return picture.resize((256, 256))


COPIES = {
    "the file": lambda picture: written(picture, "PNG"),
    "JPEG": lambda picture: written(picture, quality=60),
    "half the size": lambda picture: written(picture.resize((32, 32)), quality=90),
    "larger": lambda picture: written(large(picture), "WEBP", quality=80),
    "a thin frame": lambda picture: written(ImageOps.expand(large(picture), 9, "black"), quality=90),
    "a wide frame": lambda picture: written(ImageOps.expand(large(picture), 40, (90, 90, 90)), quality=90),
}
CREATORS = ("Ann", "Bo")


@pytest.fixture
def opted_out(store):
    """A store from which Ann took her one picture, item 5."""
    store.add([item(5, scene(1), "Ann"), item(50, scene(9), "Ann")], **BY)
    store.delete(Selection(ids=(5,)), who="kim", why="opted out")
    return store


def copy(number, name="JPEG", creator="Bo", **fields):
    one = item(number, scene(1), creator, **{"caption": "other words", **fields})
    object.__setattr__(one, "picture", COPIES[name](scene(1)))
    return one


def refused(store, one, **terms):
    (outcome,) = store.add([one], **terms, **BY).outcomes
    assert isinstance(outcome, PreconditionError) and outcome.subject == "item.image"
    assert "bring_back" in outcome.message and "--bring-back" in outcome.message
    return outcome.message


@pytest.mark.parametrize("creator", CREATORS)
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_what_was_deleted_is_refused_by_name(opted_out, name, creator):
    said = refused(opted_out, copy(6, name, creator))
    assert "item 5, which was deleted at 2" in said and said.endswith("its creator was Ann")
    assert opted_out.snapshot.bundle.items.row_of(6) is None


def test_it_may_come_back_on_purpose_and_the_audit_says_so(opted_out):
    batch = [copy(6), item(7, scene(3), "Ann")]
    result = opted_out.add(batch, terms=BACK, **BY)
    assert result.outcomes == [None, None]
    assert (opted_out.history[-1].what, opted_out.history[-1].ids) == ("bring_back=6", (6, 7))
    # Repeated as it was it is there already.
    assert opted_out.add(batch, **BY).outcomes == [None, None]


def test_the_others_of_a_delivery_enter(opted_out):
    outcomes = opted_out.add([item(7, scene(3), "Ann"), copy(6), item(8, scene(4), "Bo")], **BY).outcomes
    assert [outcome is None for outcome in outcomes] == [True, False, True]
    assert [opted_out.snapshot.bundle.items.row_of(number) is None for number in (6, 7, 8)] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("name", COPIES)
def test_it_holds_over_restarts_copies_and_compactions(opted_out, bundle_dir, tmp_path, name):
    opted_out.close()
    with Store(bundle_dir, open_engine) as store:
        refused(store, copy(6, name))
    elsewhere = shutil.copytree(bundle_dir, tmp_path / "elsewhere")
    with Store(elsewhere) as store:
        refused(store, copy(6, name))
        store.compact(**BY)
        assert "an item that was deleted before a compaction" in refused(store, copy(6, name))
        store.add([item(7, scene(3), "Ann")], **BY)
        store.compact(**BY)
        refused(store, copy(6, name, "Ann"))
    with Store(elsewhere) as store:
        refused(store, copy(6, name))


def test_one_of_the_bundles_own_items_is_known_too(store, picture):
    store.delete(Selection(ids=(1003,)), **BY)
    one = item(7, scene(0))
    object.__setattr__(one, "picture", picture(3))
    assert "item 1003" in refused(store, one)


def test_without_looks_the_same_picture_with_the_same_words_is_known(bundle_dir, picture):
    manifest = Manifest.read(bundle_dir)
    (bundle_dir / LOOKS).unlink()
    kept = {name: digest for name, digest in manifest.files.items() if name != LOOKS}
    replace(manifest, files=kept, delta=False).write(bundle_dir)
    shutil.rmtree(bundle_dir / "delta")
    with Store(bundle_dir) as store:
        words = store.snapshot.bundle.items.caption(store.snapshot.row_of(1003))
        store.delete(Selection(ids=(1003,)), **BY)
        one = item(7, scene(0), caption=words)
        object.__setattr__(one, "picture", picture(3))
        assert "item 1003" in refused(store, one)


def test_erasing_forgets_it(opted_out):
    opted_out.compact(erase=True, **BY)
    assert opted_out.add([copy(6)], **BY).outcomes == [None]


def test_what_came_back_does_not_bar_further_copies_until_it_goes_again(opted_out):
    """Whoever consents again has consented: the same creator's same picture stands for the one that was deleted."""
    assert opted_out.add([item(6, scene(1), "Ann")], terms=BACK, **BY).outcomes == [None]
    assert opted_out.add([copy(7)], **BY).outcomes == [None]
    opted_out.delete(Selection(ids=(6,)), **BY)
    assert "item 6" in refused(opted_out, copy(8))


def test_other_pictures_enter(store):
    """Every scene is another picture, and so is one upside down or recoloured."""
    store.add([item(number, scene(number), "Ann") for number in range(100, 140)], **BY)
    store.delete(Selection(creator="Ann"), **BY)
    others = [item(number, scene(number), "Bo") for number in range(200, 240)]
    others += [item(300, ImageOps.flip(scene(100)), "Bo"), item(301, ImageOps.invert(scene(101)), "Bo")]
    assert store.add(others, **BY).outcomes == [None] * 42


def test_a_mirror_image_is_a_return_but_of_ones_own(opted_out):
    """Houses draw an arrow to the left and one to the right."""
    mirrored = ImageOps.mirror(scene(1))
    assert "item 5, which was deleted" in refused(opted_out, item(6, mirrored, "Bo"))
    assert opted_out.add([item(7, mirrored, "Ann")], **BY).outcomes == [None]
    opted_out.compact(**BY)
    # Whose it was is not known any more.
    refused(opted_out, item(8, mirrored, "Cy"))


@pytest.mark.parametrize("number", range(1, 40))
def test_a_mirrored_look_is_that_of_the_mirrored_picture(number):
    picture = scene(number)
    look, turned = (look_of(np.asarray(one)) for one in (picture, ImageOps.mirror(picture)))
    assert Shown.of_look(mirror_image(look)).closest(Known.of(turned[None])).tolist() == [0]
    assert (mirror_image(mirror_image(look)) == look).all()


@pytest.mark.parametrize("creator", CREATORS)
def test_a_contributed_copy_waits_and_is_released_on_purpose_alone(opted_out, creator):
    result = opted_out.add([copy(6, creator=creator)], terms=CONTRIBUTOR, **BY)
    assert result.held == ["looks like item 5, which was deleted"]
    with pytest.raises(PreconditionError, match=r"^item 6: shows the picture of item 5, .* release it with"):
        opted_out.release([6], **BY)
    assert opted_out.release([6], bring_back=True, **BY) == opted_out.snapshot.revision
    assert opted_out.history[-1].what == "bring_back=6"


def test_what_was_deleted_while_a_copy_waited_is_not_brought_back_by_its_release(store):
    store.add([item(5, scene(1), "Ann"), item(50, scene(9), "Ann")], **BY)
    held = store.add([item(6, noised(scene(1)), "Bo"), copy(7)], terms=CONTRIBUTOR, **BY).held
    assert held == ["looks like item 5 of another creator, which is older"] * 2
    store.delete(Selection(ids=(5,)), **BY)
    for number in (6, 7):
        with pytest.raises(PreconditionError, match="item 5, which was deleted"):
            store.release([number], **BY)
    store.compact(**BY)
    # Of the noised one nothing is left that would be the very picture; the copy is known by its look.
    with pytest.raises(PreconditionError, match="deleted before a compaction"):
        store.release([7], **BY)


def test_the_command_line_says_how(opted_out, bundle_dir, tmp_path):
    opted_out.close()
    (tmp_path / "copy.png").write_bytes(encoded(scene(1)))
    words = ["bundle", "add", str(bundle_dir), "--picture", str(tmp_path / "copy.png"), "--id", "6"]
    words += ["--caption", "words", "--creator", "Bo", "--why", "May"]
    done = CliRunner().invoke(cli, words)
    assert (done.exit_code, "--bring-back" in done.output, "added 0, refused 1" in done.output) == (
        1,
        True,
        True,
    )
    assert CliRunner().invoke(cli, [*words, "--bring-back"]).exit_code == 0
    assert "bring_back=6" in CliRunner().invoke(cli, ["bundle", "log", str(bundle_dir)]).output


def test_a_creator_who_was_deleted_by_name_comes_back_on_purpose_alone(store, bundle_dir):
    store.delete(Selection(creator="Dee"), **BY)
    for _ in range(2):
        one = item(7, scene(3), " D\u200bee ")
        (outcome,) = store.add([one], **BY).outcomes
        assert isinstance(outcome, PreconditionError) and outcome.subject == "item.creator"
        assert "--bring-back" in outcome.message and outcome.message.endswith("Dee")
        store.compact(**BY)
    held = store.add([item(8, scene(4), "Dee")], terms=CONTRIBUTOR, **BY).held
    assert held == ["the creator was deleted by name"]
    with pytest.raises(PreconditionError, match=r"^item 8: is by somebody who was deleted by name"):
        store.release([8], **BY)
    assert store.add([item(7, scene(3), "Dee")], terms=BACK, **BY).outcomes == [None]
    assert store.history[-1].what == "bring_back=7"


def test_nobody_of_a_delivery_stays_out_with_the_near_duplicate_that_does(store, bundle_dir, tmp_path):
    store.delete(Selection(creator="Ann"), **BY)
    store.close()
    names = ["Ann", "Bo", "Ann", "Cy", "Bo"]
    for number, _ in enumerate(names):
        (tmp_path / f"{number}.png").write_bytes(encoded(scene(number)))
    table = {
        "id": [2000 + number for number in range(5)],
        "caption": ["a red ellipse"] * 5,
        "creator": names,
        "file": [f"{number}.png" for number in range(5)],
        "near_dup_group": [0, 0, 1, 0, 1],
    }
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    # The second time it is a delivery that is repeated.
    for _ in range(2):
        words = ["bundle", "add", str(bundle_dir), "--corpus", str(tmp_path), "--why", "x", "--json"]
        lines = list(map(json.loads, CliRunner().invoke(cli, words).output.splitlines()))
        assert {line["refused"] for line in lines if "refused" in line} == {2000, 2002}
        assert {line["added"] for line in lines if "added" in line} == {2001, 2003, 2004}
        items = open_engine(bundle_dir).bundle.items
        two, other, alone = (items.near_dup_group(items.row_of(2000 + number)) for number in (1, 3, 4))
        assert two == other != alone


def test_who_consented_to_one_item_has_not_consented_to_all(store):
    store.delete(Selection(creator="Dee"), **BY)
    for number in (7, 8):
        (outcome,) = store.add([item(number, scene(number), "Dee")], **BY).outcomes
        assert isinstance(outcome, PreconditionError) and outcome.subject == "item.creator"
        assert store.add([item(number, scene(number), "Dee")], terms=BACK, **BY).outcomes == [None]
    held = store.add([item(9, scene(9), "Dee")], terms=CONTRIBUTOR, **BY).held
    assert held == ["the creator was deleted by name"]
    store.compact(**BY)
    with pytest.raises(PreconditionError, match=r"^item 9: is by somebody who was deleted by name"):
        store.release([9], **BY)


def test_whose_items_went_one_by_one_has_not_left(store):
    store.add([item(5, scene(1), "Flo")], **BY)
    store.delete(Selection(ids=(5,)), **BY)
    store.compact(**BY)
    assert store.add([item(6, scene(2), "Flo")], **BY).outcomes == [None]


@pytest.mark.parametrize("compacted", [False, True])
def test_whoever_leaves_by_name_has_left_where_nothing_of_theirs_was_there_any_more(store, compacted):
    store.add([item(5, scene(1), "Flo")], **BY)
    store.delete(Selection(ids=(5,)), **BY)
    if compacted:
        store.compact(**BY)
    store.delete(Selection(creator="Flo"), dry_run=True, **BY)
    assert store.add([item(6, scene(2), "Flo")], **BY).outcomes == [None]
    store.delete(Selection(ids=(6,)), **BY)
    revision = store.snapshot.revision
    assert store.delete(Selection(creator="Flo"), **BY).revision == revision + 1
    assert store.history[-1].what == "creator=Flo"
    # Said once more it changes nothing.
    assert store.delete(Selection(creator="Flo"), **BY).revision == revision + 1
    (outcome,) = store.add([item(7, scene(3), "Flo")], **BY).outcomes
    assert isinstance(outcome, PreconditionError) and outcome.subject == "item.creator"


def test_who_left_while_all_of_theirs_waited_has_left(store, bundle_dir):
    store.add([item(6, scene(2), "Flo")], terms=CONTRIBUTOR, **BY)
    assert store.delete(Selection(creator="Flo"), **BY).held == (6,)
    assert store.history[-1].what == "creator=Flo"
    store.close()
    with Store(bundle_dir, open_engine) as again:
        assert isinstance(again.add([item(7, scene(3), "Flo")], **BY).outcomes[0], PreconditionError)
        assert again.delete(Selection(creator="Flo"), **BY).ids == ()
