"""Prompts, exemplars, and the refusal of leaks."""

import dataclasses
import json

import numpy as np
import pytest

from attributary_train.customization.choose import Choice, Counts, choose
from attributary_train.customization.exemplars import Exemplar, check_exemplars, load_exemplars
from attributary_train.customization.families import NEW_WORD, family, media_prompts, object_prompts
from attributary_train.errors import CustomizationError


def by_split(chosen, split, kind=None):
    return [e for e in chosen if e.split == split and kind in (None, e.kind)]


@pytest.fixture(scope="module")
def chosen(toy):
    return choose(toy.corpus, toy.known, toy.choice)


def test_counts_and_kinds(chosen):
    assert len(by_split(chosen, "train", "object")) == 4
    assert len(by_split(chosen, "validation")) == 3
    assert sorted(e.seen for e in by_split(chosen, "test", "object")) == [False, False, True, True]
    assert all(len(e.ids) == 2 for e in chosen if e.kind == "style")
    assert len({e.name for e in chosen}) == len(chosen) == 15


def test_nothing_the_model_has_seen_is_an_exemplar(chosen, toy):
    assert not {number for e in chosen for number in e.ids} & set(toy.known)


def test_held_out_concepts_and_creators_teach_nothing(chosen, toy):
    taught = [toy.corpus.item(number) for e in by_split(chosen, "train") for number in e.ids]
    for exemplar in chosen:
        if exemplar.split != "train" and not exemplar.seen:
            own = [toy.corpus.item(number) for number in exemplar.ids]
            if exemplar.kind == "object":
                assert own[0].concept_id not in {item.concept_id for item in taught}
            else:
                assert own[0].creator not in {item.creator for item in taught}


def test_a_seen_test_exemplar_has_another_of_its_concept_in_training(chosen, toy):
    concepts = {toy.corpus.item(e.ids[0]).concept_id for e in by_split(chosen, "train", "object")}
    for exemplar in by_split(chosen, "test", "object"):
        assert (toy.corpus.item(exemplar.ids[0]).concept_id in concepts) == exemplar.seen


def test_the_same_seed_chooses_the_same(chosen, toy):
    assert choose(toy.corpus, toy.known, toy.choice) == chosen
    assert choose(toy.corpus, toy.known, dataclasses.replace(toy.choice, seed=1)) != chosen


def test_too_few_are_said_by_name(toy):
    with pytest.raises(CustomizationError, match=r"counts\.objects.*wanted"):
        choose(toy.corpus, toy.known, dataclasses.replace(toy.choice, objects=Counts(50, 0, 0, 0)))
    with pytest.raises(CustomizationError, match=r"counts\.styles.*creators"):
        choose(toy.corpus, toy.known, dataclasses.replace(toy.choice, styles=Counts(4, 2, 3, 2)))
    with pytest.raises(CustomizationError, match=r"counts\.seen"):
        Counts(1, 0, 2, 0)
    # A quarter of the corpus each: houses, by the usual limit.
    with pytest.raises(CustomizationError, match=r"counts\.styles"):
        choose(toy.corpus, toy.known, Choice(Counts(2, 0, 0, 1), Counts(1, 0, 0, 1), style_items=(2, 2)))


def leak(chosen, split, **changes):
    """The first exemplar of a split, changed."""
    return dataclasses.replace(by_split(chosen, split)[0], name="extra", **changes)


def test_leaks_are_refused(chosen, toy):
    train = by_split(chosen, "train", "object")[0]
    with pytest.raises(
        CustomizationError, match=rf"split leak: item {train.ids[0]} is in object-0000 \(train\)"
    ):
        check_exemplars([*chosen, leak(chosen, "test", ids=train.ids)], toy.corpus)
    concept = toy.corpus.item(train.ids[0]).concept_id
    used = {number for e in chosen for number in e.ids}
    sibling = next(i.id for i in toy.corpus if i.concept_id == concept and i.id not in used)
    with pytest.raises(CustomizationError, match=r"split leak: concept .* held out"):
        check_exemplars([*chosen, Exemplar("extra", "object", "test", False, (sibling,), "x")], toy.corpus)
    check_exemplars([*chosen, Exemplar("extra", "object", "test", True, (sibling,), "x")], toy.corpus)
    creator = toy.corpus.item(train.ids[0]).creator
    drawn = next(i.id for i in toy.corpus if i.creator == creator and i.id not in used)
    with pytest.raises(CustomizationError, match=r"split leak: creator .* held out"):
        check_exemplars(
            [*chosen, Exemplar("extra", "style", "validation", False, (drawn,), creator)], toy.corpus
        )


def test_near_duplicates_across_splits_are_refused(chosen, toy, monkeypatch):
    first, second = by_split(chosen, "train", "object")[0], by_split(chosen, "test", "object")[0]
    group = toy.corpus.item(first.ids[0]).near_dup_group
    real = toy.corpus.item

    def item(number):
        found = real(number)
        return dataclasses.replace(found, near_dup_group=group) if number == second.ids[0] else found

    monkeypatch.setattr(toy.corpus, "item", item)
    with pytest.raises(CustomizationError, match="split leak: near-duplicate group"):
        check_exemplars(chosen, toy.corpus)


def test_own_exemplars_from_a_file(chosen, toy, tmp_path):
    path = tmp_path / "exemplars.json"
    path.write_text(json.dumps([e.to_json() for e in chosen]))
    assert load_exemplars(path, toy.corpus) == chosen
    path.write_text(json.dumps([{**chosen[0].to_json(), "ids": [1]}]))
    with pytest.raises(CustomizationError, match="exemplar object-0000: id: no item 1"):
        load_exemplars(path, toy.corpus)
    path.write_text(json.dumps([chosen[0].to_json(), chosen[0].to_json()]))
    with pytest.raises(CustomizationError, match="object-0000: stands there twice"):
        load_exemplars(path, toy.corpus)
    for broken, words in (("{", "not readable"), ("{}", "JSON list"), ('[{"name": "a"}]', "exemplar a")):
        path.write_text(broken)
        with pytest.raises(CustomizationError, match=words):
            load_exemplars(path, toy.corpus)
    with pytest.raises(CustomizationError, match="kind 'mood'"):
        dataclasses.replace(chosen[0], kind="mood")
    with pytest.raises(CustomizationError, match="2 items; an object has 1"):
        dataclasses.replace(chosen[0], ids=(1, 2))


def test_families():
    rng = np.random.default_rng(0)
    prompts = media_prompts("red disc, shape, toy", 8, rng)
    assert len(set(prompts)) == 8
    assert all(prompt.startswith(f"{NEW_WORD} red disc") for prompt in prompts)
    assert sum("style" in prompt for prompt in prompts) == 4
    tuned = {family("media").tuning_prompt("red disc", draw) for draw in range(6)}
    assert len(tuned) == 3 and not any("style" in prompt or " as " in prompt for prompt in tuned)
    styles = object_prompts(["a tree", "a very long name of a thing"], 3, rng)
    assert all(prompt.endswith(f", {NEW_WORD} style") for prompt in styles)
    with pytest.raises(
        CustomizationError, match="prompt family: 'mood' is unknown; there are media, objects"
    ):
        family("mood")
    with pytest.raises(CustomizationError, match="no name"):
        object_prompts([], 1, rng)
