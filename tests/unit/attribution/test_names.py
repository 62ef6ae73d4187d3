"""Creators' names in prompts are not read; every other prompt is, letter for letter."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from attributary.attribution.names import PromptNames
from attributary.attribution.open import open_engine, open_preparer
from attributary.attribution.types import Query
from attributary.bundle.items import ItemTable
from attributary.bundle.manifest import Manifest
from attributary.errors import BundleError

CAPTIONS = {
    "Danny Allen": ["danny's boat", "lion"],
    "Gerald G.": ["a red apple", "Crystal moon"],
    "Apple": ["a green apple", "phone"],
    "Crystal Moon": ["a wheel"],
    "Microsoft Corporation": ["folder"],
    "Julian Grüneberg": ["tree"],
    "Jonadab the Unsightly One": ["one of them"],
    "Zoë": ["cloud"],
    "田中太郎": ["猫"],
    "Mo": ["drum"],
}


def table(captions):
    rows = [(caption, creator) for creator, found in captions.items() for caption in found]
    columns = {
        "id": range(len(rows)),
        "caption": [caption for caption, _ in rows],
        "creator": [creator for _, creator in rows],
        "creator_url": [""] * len(rows),
        "licence": ["MIT"] * len(rows),
        "uri": [""] * len(rows),
        "near_dup_group": range(len(rows)),
    }
    return ItemTable(pa.table({name: list(values) for name, values in columns.items()}))


@pytest.fixture(scope="module")
def names():
    return PromptNames(table(CAPTIONS))


@pytest.mark.parametrize(
    "worded",
    [
        "taco by Danny Allen",
        "taco by DANNY ALLEN",
        "taco, in the style of danny allen",
        "taco in the manner of Danny  Allen.",
        "taco, Danny Allen style",
        "taco, Danny-Allen-style",
        "Danny Allen's taco",
        "taco (art by Danny Allen)",
        "taco @danny_allen",
        "taco #DannyAllen",
        "taco by D a n n y  A l l e n",
        "taco by D.A.N.N.Y. A.L.L.E.N.",
        "taco © Danny Allen",
        "taco, artist: Danny Allen",
        "taco Allen, Danny",
        "taco by Danny",
        "Allen taco",
        "taco \uff24\uff41\uff4e\uff4e\uff59 \u00e4llen",  # full width, an accent
        "taco by Dan\u200bny Al\u00adlen",  # what cannot be seen
        "taco by Danny Danny Allen Allen",
        "Danny Allen, Danny Allen, taco, Danny Allen",
        "taco by Microsoft Corporation",
        "taco by Microsoft",
        "microsoft taco",
        "taco by Julian Gruneberg",
        "taco by Julian Gru\u0308neberg",
        "taco by Zoe",
        "taco by Apple",  # a word, and here a name
        "taco in the style of apple",
        "taco by Crystal Moon",
        "taco 田中太郎",
        "Mo taco",
    ],
)
def test_a_name_leaves_the_prompt_with_what_led_to_it(names, worded):
    assert names.without(worded) == "taco"


@pytest.mark.parametrize(
    "name", ["Danny Allen", "danny", "by Danny Allen", "Mo", "D a n n y", "Gerald G.", "in the style of Zoë"]
)
def test_a_name_alone_is_no_prompt(names, name):
    assert names.without(name) == ""


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "taco, Twemoji style",
        "a red apple",
        "APPLE",
        "crystal moon",  # a caption of somebody else's
        "moonlight by the sea",
        "a house by the lake",
        "by night",
        "a corporation in the style of clay",
        "a man g\u00e9nial",
        "motion, dan, nyall",
        "the 1 only  :  {{weird}} \u2026 \ud83d\ude80 text",
        "猫",
        "mo" * 4_000,
    ],
)
def test_a_prompt_without_a_name_is_the_very_same(names, prompt):
    assert names.without(prompt) is prompt


def test_every_caption_is_read_as_a_prompt_where_its_words_are_nobodys_name_alone(names):
    for creator, captions in CAPTIONS.items():
        for caption in captions:
            if creator != "Danny Allen":
                assert names.without(caption) == caption


def test_names_within_names_end(names):
    assert names.without("Danny " * 500 + "Allen " * 500) == ""
    hidden = "danny allen"
    for _ in range(20):
        hidden = f"red apple by {hidden} apple"
    assert "allen" not in names.without(hidden)


def test_who_comes_later_has_a_name_and_makes_none_a_word(names):
    later = names.after(["Rosa Lux"])
    assert later.without("taco by Rosa Lux") == "taco"
    assert later.without("Microsoft danny taco") == "taco"
    assert names.without("taco by Rosa Lux") == "taco by Rosa Lux"
    assert names.after(["Mo"]) is names


@pytest.fixture
def pixels():
    return np.asarray(Image.new("RGB", (40, 40), "red"))


def test_every_way_to_an_engine_reads_the_same(tiny_bundle_dir, pixels):
    engine, preparer = open_engine(tiny_bundle_dir), open_preparer(tiny_bundle_dir)
    for one in (engine, preparer):
        plain = one.prepare(Query(pixels=pixels, prompt="a red ellipse"))
        named = one.prepare(Query(pixels=pixels, prompt="a red ellipse by Dee"))
        alone = one.prepare(Query(pixels=pixels, prompt="Dee"))
        assert named.tokens.tolist() == plain.tokens.tolist()
        assert (named.has_prompt, alone.has_prompt, alone.tokens.size) == (True, False, 0)
    answers = [
        engine.attribute(Query(pixels=pixels, prompt=prompt))
        for prompt in ("a red ellipse", "a red ellipse, in the style of Dee")
    ]
    assert answers[0].items == answers[1].items


def test_a_bundle_may_say_that_names_are_read(tiny_bundle_dir, tmp_path, pixels):
    manifest = Manifest.read(tiny_bundle_dir)
    assert manifest.names_in_prompts == ""
    told = replace(manifest, names_in_prompts="read")
    assert told.bundle_id != manifest.bundle_id
    place = tmp_path / "bundle"
    place.mkdir()
    for path in tiny_bundle_dir.iterdir():
        if path.is_file():
            (place / path.name).write_bytes(path.read_bytes())
    replace(told, delta=False).write(place)
    preparer = open_preparer(place)
    named = preparer.prepare(Query(pixels=pixels, prompt="a red ellipse by Dee"))
    plain = preparer.prepare(Query(pixels=pixels, prompt="a red ellipse"))
    assert named.tokens.size > plain.tokens.size


def test_another_word_for_it_is_refused(tiny_bundle_dir, tmp_path):
    text = (tiny_bundle_dir / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(json.dumps(json.loads(text) | {"names_in_prompts": "no"}))
    with pytest.raises(BundleError, match="names_in_prompts is 'no'"):
        Manifest.read(tmp_path)


def test_spelled_letters_are_not_read_over_and_over(names, monkeypatch):
    looked_up = []
    counts = PromptNames._counts
    monkeypatch.setattr(
        PromptNames, "_counts", lambda self, *given: looked_up.append(given) or counts(self, *given)
    )
    prompt = " ".join("microsof" * 200)
    assert names.without(prompt) == prompt
    assert len(looked_up) < 6 * len(prompt.split())


@pytest.mark.parametrize(("first", "most"), [(1, 1), (1, 4), (2, 8), (5, 5)])
def test_however_many_captions_are_read_at_once_a_word_is_found(monkeypatch, names, first, most):
    for captions in (CAPTIONS, dict(reversed(CAPTIONS.items()))):
        monkeypatch.setattr("attributary.attribution.names._ROWS", first)
        monkeypatch.setattr("attributary.attribution.names._MOST_ROWS", most)
        found = PromptNames(table(captions))
        for prompt in ("a green apple", "an apple by Apple", "crystal moon", "taco by mo", "one moon, zoe"):
            assert found.without(prompt) == names.without(prompt)
        assert found.without("an apple") == "an apple"
