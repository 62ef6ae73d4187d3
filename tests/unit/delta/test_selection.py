"""A deletion that means nothing here is refused, with what comes near."""

import json
import subprocess
import sys

import pytest

from attributary.delta.entry import CONTRIBUTOR
from attributary.delta.selection import Selection, nearest
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError

BY = {"who": "Kim", "why": "a test"}


@pytest.mark.parametrize(
    ("chosen", "field", "words"),
    [
        ({"creator": "ann"}, "creator", "near: 'Ann'"),
        ({"creator": "De"}, "creator", "near: 'Dee'"),
        ({"creator": "Zoroaster"}, "creator", "nothing is deleted"),
        ({"licence": "mit"}, "licence", "near: 'MIT'"),
        ({"licence": "CC0"}, "licence", "near: 'CC0-1.0'"),
        ({"source": "File:Pictures/"}, "source", "near: 'file:pictures/'"),
        ({"source": "elsewhere"}, "source", "nothing is deleted"),
        ({"ids": (10050,)}, "ids", "no item 10050"),
        ({"ids": (7, 8)}, "ids", "no item 7, 8"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_a_selection_of_nothing_is_refused_and_what_is_near_is_named(store, chosen, field, words, dry):
    with pytest.raises(InvalidArgumentError, match=words) as refused:
        store.delete(Selection(**chosen), dry_run=dry, **BY)
    assert refused.value.field == f"selection.{field}"
    assert store.snapshot.revision == 0


def test_an_opt_out_may_be_repeated_also_after_a_compaction(store):
    first = store.delete(Selection(creator="Dee"), **BY)
    assert first.ids and store.delete(Selection(creator="Dee"), **BY).ids == ()
    assert store.delete(Selection(ids=first.ids[:2]), **BY).already == tuple(sorted(first.ids[:2]))
    store.compact(**BY)
    assert store.delete(Selection(creator="Dee"), **BY).ids == ()
    with pytest.raises(InvalidArgumentError, match="nothing is deleted"):
        store.delete(Selection(creator="dee"), **BY)


@pytest.mark.parametrize("what", ["creator", "licence"])
def test_a_name_that_deletions_by_id_and_a_compaction_left_nothing_of_is_known(store, what):
    items, name = store.snapshot.bundle.items, {"creator": "Dee", "licence": "MIT"}[what]
    named = items.creator if what == "creator" else items.licence
    gone = tuple(items.id_of(row) for row in range(len(items)) if named(row) == name)
    assert gone and store.delete(Selection(gone), **BY).ids
    store.compact(**BY)
    assert store.delete(Selection(**{what: name}), **BY).ids == ()
    with pytest.raises(InvalidArgumentError, match="nothing is deleted"):
        store.delete(Selection(**{what: name.lower()}), **BY)


def test_a_source_is_deleted_whichever_form_its_accents_have(store, new_item):
    composed, apart = "file:M\u00fcller/", "file:Mu\u0308ller/"
    added = [new_item(1, 100, uri=composed + "a.png"), new_item(2, 101, uri=apart + "b.png")]
    assert not any(store.add(added, **BY).outcomes)
    held = [new_item(3, 102, uri=apart + "c.png", creator="Newcomer")]
    assert store.add(held, **BY, terms=CONTRIBUTOR).held == ["the creator is new here"]
    done = store.delete(Selection(source=composed), **BY)
    assert (done.ids, done.held) == ((1, 2), (3,))


def test_a_name_is_deleted_however_it_is_spelt(store):
    store.delete(Selection(creator=" \ufeffDee\u200b "), **BY)
    assert store.delete(Selection(creator="Dee"), **BY).ids == ()
    assert store.snapshot.revision == 1


def test_near_names_ignore_capitals_and_blanks_and_are_few():
    names = ["Ada Lovelace", "ADA", "Adam", "Bob", "Microsoft Corporation"]
    assert nearest("ada", names)[0] == "ADA"
    assert (
        nearest("aDA", ["ada", "Bo", "ADA"])
        == nearest("\uff21\uff44\uff41", ["ada", "ADA"])
        == ["ada", "ADA"]
    )
    assert nearest(" microsoft  corporation ", names) == ["Microsoft Corporation"]
    assert nearest("microsoft", names) == ["Microsoft Corporation"]
    assert nearest("Bbo", names) == ["Bob"]
    assert nearest("xyz", names) == []
    assert len(nearest("a", [f"a{at}" for at in range(50)])) == 3


def run(*arguments):
    command = [sys.executable, "-m", "attributary.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_tells_what_waited_and_is_gone(bundle_dir, new_item):
    with Store(bundle_dir) as store:
        store.add([new_item(3, 102, creator="Newcomer")], terms=CONTRIBUTOR, **BY)
    dry = run("bundle", "delete", bundle_dir, "--creator", "Newcomer", "--why", "x", "--dry-run", "--json")
    assert json.loads(dry.stdout)["held"] == [3]
    done = run("bundle", "delete", bundle_dir, "--creator", "Newcomer", "--why", "opted out")
    assert "waited for the operator: 3" in done.stderr and done.returncode == 0


def test_the_command_fails_and_inspect_counts_what_is_there(bundle_dir):
    missed = run("bundle", "delete", bundle_dir, "--creator", "ann", "--why", "opted out")
    assert missed.returncode == 2
    assert "near: 'Ann'" in missed.stderr and "Traceback" not in missed.stderr
    partly = run("bundle", "delete", bundle_dir, "--id", "1003", "--id", "5", "--why", "x")
    assert partly.returncode == 1
    assert "deleted 1 items" in partly.stdout and "unknown: 5" in partly.stderr
    assert run("bundle", "delete", bundle_dir, "--creator", "Ann", "--why", "opted out").returncode == 0
    shown = run("bundle", "inspect", bundle_dir).stdout
    now = json.loads(run("bundle", "inspect", bundle_dir, "--json").stdout)
    assert now["present"]["creators"] == 3
    assert now["present"]["items"] < now["item_count"]
    assert f"{now['present']['items']} by 3 creators now" in " ".join(shown.split())


def test_a_deletion_tells_which_near_duplicates_stay(store, bundle_dir, new_item):
    """The same picture under another name stays, and is paid: whoever deletes has to know."""
    store.add([new_item(1, 100), new_item(2, 100, creator="Bo"), new_item(3, 101)], **BY)
    assert store.delete(Selection(ids=(1,)), dry_run=True, **BY).duplicates == (2,)
    assert store.delete(Selection(ids=(1,)), **BY).duplicates == (2,)
    assert store.delete(Selection(ids=(3,)), **BY).duplicates == ()
    store.close()
    told = run("bundle", "delete", bundle_dir, "--creator", "Bo", "--why", "opted out", "--json")
    assert json.loads(told.stdout)["near_duplicates"] == []
