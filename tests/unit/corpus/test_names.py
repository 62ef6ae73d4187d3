"""Concepts that join across sets, and creators that are one person."""

import pytest

from attributary_train.corpus.names import (
    ConceptNames,
    canonical_code,
    has_skin_tone,
    is_skin_tone_name,
    slug,
)
from attributary_train.corpus.sources.creators import CreatorNames, tidy_creator


@pytest.fixture
def names():
    table = ConceptNames()
    entries = [
        {"hexcode": "1F34E", "annotation": "red apple", "tags": "fruit, red"},
        {"hexcode": "1F1E6-1F1FD", "annotation": "flag: Åland Islands", "tags": ""},
        {"hexcode": "0030-FE0F-20E3", "annotation": "keycap: 0", "tags": ""},
        {"hexcode": "E000", "annotation": "goldfish", "tags": ""},
        {"hexcode": "1F44B-1F3FB", "annotation": "waving hand: light skin tone", "tags": ""},
    ]
    table.add_openmoji(entries)
    return table


def test_one_concept_has_one_code_in_every_spelling(names):
    assert names.code("red-apple") == names.code("Red Apple") == "1F34E"
    assert names.code("flag-for-aland-islands") == names.code("flag: Åland Islands") == "1F1E6-1F1FD"
    assert names.code("digit-zero") == "0030-20E3"
    assert names.tags["1F34E"] == ("fruit", "red")


def test_private_codes_and_skin_tones_are_no_concepts(names):
    assert names.code("goldfish") is None
    assert names.code("waving hand: light skin tone") is None


def test_aliases_join_in_the_copy_only(names):
    chars = {"1f43b": "bear"}
    aliases = {"bear-face": {"parent": "bear"}, "pear": {"parent": "red-apple", "hFlip": True}}
    copy = names.with_iconify(chars, aliases)
    assert copy.code("bear-face") == "1F43B"
    assert copy.code("pear") is None
    assert names.code("bear-face") is None


def test_codes_are_normalised():
    assert canonical_code("2764-fe0f-200d-1f525") == "2764-200D-1F525"
    assert canonical_code("a9") == "00A9"
    assert has_skin_tone("1F44B-1F3FD")
    assert not has_skin_tone("1F44B")


@pytest.mark.parametrize(
    "name", ["waving-hand-dark", "man-medium-light-skin-tone-bald", "hand-light-skin-tone"]
)
def test_skin_tone_names(name):
    assert is_skin_tone_name(name)


@pytest.mark.parametrize("name", ["light-bulb", "dark-moon", "medium", "black-cat"])
def test_names_that_only_sound_like_skin_tones(name):
    assert not is_skin_tone_name(name)


def test_slug():
    assert slug("Woman's  Hat (Åland)") == "womans-hat-aland"


@pytest.mark.parametrize(
    ("raw", "tidy"),
    [
        ("Jakob [someone@example.org]", "Jakob"),
        ("Ghuul (ghuul@example.org)", "Ghuul"),
        ("fudriot@example.org", "fudriot"),
        ("U.S. Army (public domain clipart)", "U.S. Army"),
        ("Mitchell Johnson <example.net/~mitchell>", "Mitchell Johnson"),
        ("Spencer Joplin, http://example.org/~s/", "Spencer Joplin"),
        ("&Aacute;ki G.", "Áki G."),
        ("JosuÃ© Alcalde", "Josué Alcalde"),
        ("Åsa Ãberg", "Åsa Ãberg"),
        ("c...", None),
        ("HASH(0x89c79d4)", None),
        ("", None),
        ("none", None),
    ],
)
def test_creators_are_tidied(raw, tidy):
    assert tidy_creator(raw) == tidy


def test_spellings_of_one_person_become_one():
    raw = ["A.J. Ashton", "AJ Ashton", "AJ Ashton", "Rollandin Francesco", "Architetto Francesco Rollandin"]
    names = CreatorNames(raw)
    assert names.display("A.J. Ashton") == "AJ Ashton"
    assert names.display("Rollandin Francesco") == names.display("Architetto Francesco Rollandin")
    assert names.display("") is None
