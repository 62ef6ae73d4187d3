"""Identifiers in a table of captions: what is mistyped or contradicts itself is named with its row, and left out."""

import csv

import pytest
from PIL import Image

from attributary.errors import InvalidArgumentError
from attributary_train.corpus.build import build
from attributary_train.corpus.corpus import Corpus
from attributary_train.corpus.sources.folder import Folder
from attributary_train.corpus.who import Creators


def test_identifiers_reach_the_corpus_and_wrong_ones_are_reported(tmp_path):
    rows = [
        {"file": "0.png", "creator": "Ann", "creator_isni": "0000 0001 2103 2683"},
        {"file": "1.png", "creator": "Bo", "creator_orcid": "0000-0002-1825-0098"},
        {"file": "2.png", "creator": "Ann", "creator_isni": "0000 0001 2281 955X"},
        {"file": "3.png", "creator": "Cy", "creator_ids": "orcid:0000-0002-1825-0097"},
        {"file": "4.png", "creator": "", "creator_isni": "0000 0001 2103 2683"},
        {"file": "5.png", "creator": "Dee"},
        {"file": "6.png", "creator": "D" * 513},
        {"file": "7.png", "creator": "Dee", "licence": "M\x1bIT"},
    ]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(len(rows)):
        Image.new("RGB", (40, 40), (number * 40, 10, 200 - number * 20)).save(folder / f"{number}.png")
        picture = Image.open(folder / f"{number}.png")
        picture.putpixel((3, number), (255, 255, 255))
        picture.save(folder / f"{number}.png")
    with (tmp_path / "items.csv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file, ["file", "caption", "creator", "creator_isni", "creator_orcid", "creator_ids", "licence"]
        )
        writer.writeheader()
        writer.writerows([{"caption": "a square", **row} for row in rows])
    build(tmp_path / "corpus", [Folder(folder, tmp_path / "items.csv")], cache=tmp_path / "cache", workers=1)
    corpus = Corpus.open(tmp_path / "corpus")
    assert {item.creator: item.creator_ids for item in corpus} == {
        "Ann": ("isni:0000000121032683",),
        "Cy": ("orcid:0000-0002-1825-0097",),
        "Dee": (),
    }
    problems = {problem["where"]: problem["reason"] for problem in corpus.facts["sources"][0]["problems"]}
    assert "creator_orcid: '0000-0002-1825-0098' is mistyped" in problems["1.png"]
    assert "two creators need two names" in problems["2.png"]
    assert "creator: is empty" in problems["4.png"]
    assert "creator: has 513 bytes, the limit is 512" in problems["6.png"]
    assert "licence: must be one line" in problems["7.png"]


def test_lists_and_texts_of_identifiers_are_read():
    creators = Creators()
    listed = {"creator": "Ann", "creator_ids": ["orcid:0000-0002-1825-0097", "isni:0000000121032683"]}
    assert creators.of(listed) == ("Ann", ("isni:0000000121032683", "orcid:0000-0002-1825-0097"))
    assert creators.of({"creator": "Ann", "creator_ids": None}) == ("Ann", ())
    with pytest.raises(InvalidArgumentError, match="must begin with isni: or orcid:"):
        creators.of({"creator": "Ann", "creator_ids": "viaf:12345"})
