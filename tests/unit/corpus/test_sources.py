"""Public sets read from small package trees made here in the layout of the real ones."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from attributary_train.corpus import FetchError
from attributary_train.corpus.build import build as build_corpus
from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.sources.registry import SOURCES, sources_named
from attributary_train.errors import CorpusError

ROOT = Path(__file__).parents[3]
PYTHON = os.pathsep.join(map(str, (ROOT / "python", ROOT)))
SQUARE = '<rect x="4" y="4" width="{side}" height="8" fill="{fill}"/>'
RDF = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><rdf:RDF><cc:Work>
<dc:title>{title}</dc:title><dc:creator><cc:Agent><dc:title>{creator}</dc:title></cc:Agent></dc:creator>
<dc:subject><rdf:Bag><rdf:li>fruit</rdf:li><rdf:li>hash</rdf:li></rdf:Bag></dc:subject>
<cc:license rdf:resource="{licence}"/></cc:Work></rdf:RDF></metadata></svg>"""
PUBLIC = "http://web.resource.org/cc/PublicDomain"


def svg(side, fill):
    body = SQUARE.format(side=side, fill=fill)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="16" height="16">{body}</svg>'


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def emoji(code, name, author="Ada", **more):
    entry = {
        "hexcode": code,
        "annotation": name,
        "tags": "a, b",
        "openmoji_tags": "b, c",
        "subgroups": "food-fruit",
    }
    return entry | {"openmoji_author": author, "skintone": ""} | more


@pytest.fixture
def packages(tmp_path, monkeypatch, encode, star):
    """Small stand-ins for the packages; what is not here cannot be fetched."""
    home = tmp_path / "packages"
    entries = [
        emoji("1F34E", "red apple"),
        emoji("1F34C", "banana", "Ben"),
        emoji("E000", "goldfish"),
        emoji("1F44B-1F3FB", "waving hand: light skin tone", skintone="1"),
        emoji("1F9FF", "missing drawing"),
    ]
    write(home / "openmoji" / "data" / "openmoji.json", entries)
    for side, entry in enumerate(entries[:4], start=4):
        write(home / "openmoji" / "color" / "svg" / f"{entry['hexcode']}.svg", svg(side, "red"))
    noto = home / "@iconify-json" / "noto"
    icons = {
        "red-apple": {"body": SQUARE.format(side=9, fill="green")},
        "same-apple": {"body": SQUARE.format(side=9, fill="green")},
        "waving-hand-dark": {"body": SQUARE.format(side=5, fill="green")},
        "old": {"body": SQUARE.format(side=6, fill="green"), "hidden": True},
        "wide": {"body": SQUARE.format(side=28, fill="green"), "width": 32},
    }
    write(noto / "icons.json", {"icons": icons, "aliases": {}, "width": 16, "height": 16})
    write(noto / "chars.json", {"1f34e": "red-apple"})
    write(noto / "metadata.json", {"categories": {"Food": ["red-apple"]}})
    licence = {"spdx": "Apache-2.0", "url": "https://example.org/licence"}
    write(noto / "info.json", {"author": {"name": "House", "url": "https://example.org"}, "license": licence})
    clips = home / "openclipart"
    for path, title, creator, mark in (
        ("food/banana_bob_01", "Banana", "Bob [b@example.org]", PUBLIC),
        ("food/copy", "Banana again", "Bob", PUBLIC),
        ("food/untitled", "", "Bob", PUBLIC),
        ("food/nobody", "Pear", "", PUBLIC),
        ("food/gpl", "Plum", "Bob", "http://creativecommons.org/licenses/GPL/2.0/"),
        ("shapes/stars/s1", "gramastar", "Bob", PUBLIC),
        ("food/no_png", "Fig", "Bob", PUBLIC),
    ):
        write(
            clips / "svg" / "usr/share/openclipart/svg" / f"{path}.svg",
            RDF.format(title=title, creator=creator, licence=mark),
        )
    write(clips / "svg" / "usr/share/openclipart/svg" / "food/odd.svg", "<svg><metadata>")
    for path in ("food/banana_bob_01", "food/copy", "food/nobody"):
        png = clips / "png" / "usr/share/openclipart/png" / f"{path}.png"
        png.parent.mkdir(parents=True, exist_ok=True)
        png.write_bytes(encode(star))

    def npm(self, pin):
        if not (home / pin.name).exists():
            raise FetchError(pin.label, "no network")
        return home / pin.name

    monkeypatch.setattr(PackageCache, "npm", npm)
    monkeypatch.setattr(PackageCache, "debian", lambda self, pin: (clips / pin.name[-3:], pin.version))
    return home


def build(tmp_path, *names, **options):
    return build_corpus(
        tmp_path / "out", sources_named(names), cache=tmp_path / "cache", workers=1, **options
    )


def test_sets_join_by_concept(tmp_path, packages):
    corpus = build(tmp_path, "openmoji", "noto", "openclipart")
    by_key = {item.key: item for item in corpus}
    assert set(by_key) == {
        "openmoji/1F34E",
        "openmoji/1F34C",
        "openmoji/E000",
        "noto/red-apple",
        "noto/wide",
        "openclipart/food/banana_bob_01",
    }
    apple = by_key["noto/red-apple"]
    assert (apple.concept_id, apple.caption, apple.keywords) == ("1F34E", "red apple", ("a", "b", "food"))
    assert (apple.creator, apple.licence_spdx, apple.style_set) == ("House", "Apache-2.0", "noto")
    assert apple.uri == "@iconify-json/noto@1.2.9/icons.json#red-apple"
    assert by_key["openmoji/1F34C"].creator == "Ben"
    assert by_key["openmoji/1F34C"].keywords == ("a", "b", "c", "food fruit")
    assert by_key["openmoji/E000"].concept_id == "goldfish"
    clip = by_key["openclipart/food/banana_bob_01"]
    assert (clip.concept_id, clip.creator, clip.licence_spdx) == ("1F34C", "Bob", "CC-PDDC")
    assert clip.caption == "Banana, fruit, food"
    assert corpus.facts["counts"]["concepts_shared"] == 2


def test_what_is_left_out_is_counted(tmp_path, packages):
    corpus = build(tmp_path, "openmoji", "noto", "openclipart")
    moji, noto, clips = corpus.facts["sources"]
    assert moji["skipped"] == {"skin tone": 1}
    assert moji["problems"] == [{"where": "color/svg/1F9FF.svg", "reason": "listed but not in the package"}]
    assert noto["skipped"] == {"hidden by the set": 1, "same drawing under another name": 1, "skin tone": 1}
    assert clips["skipped"] == {
        "no PNG of this drawing": 1,
        "no creator named": 1,
        "no title": 1,
        "not marked as public domain": 1,
        "same drawing under another name": 1,
        "star polygon": 1,
    }
    assert clips["problems"][0]["where"] == "food/odd.svg"


def test_a_package_that_cannot_be_had_stops_nothing_else(tmp_path, packages):
    corpus = build(tmp_path, "twemoji", "noto")
    twemoji, noto = corpus.facts["sources"]
    assert twemoji["problems"] == [{"where": "@iconify-json/twemoji@1.2.5", "reason": "no network"}]
    assert (twemoji["items"], noto["items"]) == (0, 2)


def test_nothing_to_be_had_is_an_error(tmp_path, packages):
    with pytest.raises(CorpusError, match=r"no usable image in twemoji.*no network"):
        build(tmp_path, "twemoji")
    assert not (tmp_path / "out").exists()


def test_limit_and_rebuild_remove_what_is_gone(tmp_path, packages):
    build(tmp_path, "openmoji")
    smaller = build(tmp_path, "openmoji", limit=1)
    assert len(smaller) == 1
    assert len(list((tmp_path / "out" / "images").glob("*/*"))) == 1


def test_two_processes_give_the_same_corpus(tmp_path, packages):
    build(tmp_path, "openmoji", "noto")
    before = (tmp_path / "out" / "items.parquet").read_bytes()
    build_corpus(tmp_path / "two", sources_named(["openmoji", "noto"]), cache=tmp_path / "other", workers=2)
    assert (tmp_path / "two" / "items.parquet").read_bytes() == before


def test_a_killed_build_goes_on_where_it_stopped(tmp_path, packages, monkeypatch):
    from attributary_train.corpus import build as module
    from attributary_train.corpus import raster

    placed = []

    def place(source, target):
        if len(placed) == 2:
            raise KeyboardInterrupt
        placed.append(target)

    monkeypatch.setattr(module, "_place", place)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, "openmoji")
    monkeypatch.undo()
    packages_again(monkeypatch, packages)
    assert not (tmp_path / "out" / "corpus.json").exists()
    rendered = []
    real = raster.render
    monkeypatch.setattr(raster, "render", lambda *given: rendered.append(given) or real(*given))
    assert len(build(tmp_path, "openmoji")) == 3
    # The third drawing was rendered before the kill too, only not placed.
    assert rendered == []


def packages_again(monkeypatch, home):
    monkeypatch.setattr(PackageCache, "npm", lambda self, pin: home / pin.name)


def test_a_foreign_directory_is_left_alone(tmp_path, packages):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(CorpusError, match="not a corpus"):
        build(tmp_path, "noto")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": -3}])
def test_bad_limits_are_named(tmp_path, packages, options):
    with pytest.raises(CorpusError, match="limit: must be at least 1"):
        build(tmp_path, "noto", **options)


def test_held_out_sets_are_built_only_when_asked_for():
    assert "emojione" not in {source.name for source in sources_named(())}
    assert [source.name for source in sources_named(["emojione"])] == ["emojione"]
    with pytest.raises(CorpusError, match="no such source: emoji; there are openmoji"):
        sources_named(["emoji"])
    assert len({source.name for source in SOURCES}) == len(SOURCES)


def test_equal_keys_are_refused(tmp_path):
    from tests.support.synthetic import Synthetic

    with pytest.raises(CorpusError, match="keys must be distinct"):
        build_corpus(tmp_path / "out", [Synthetic(2), Synthetic(1)], cache=tmp_path / "cache", workers=1)


def test_workers_end_when_the_build_is_killed():
    script = """
import os, sys, time
from pathlib import Path
from attributary_train.corpus.build import _rendered
from tests.support.synthetic import Synthetic
from attributary_train.corpus.sources.base import SourceReport

def endless():
    drawing = next(Synthetic(1).drawings(None, None, SourceReport()))
    for _ in range(256):
        yield drawing
    print("working", flush=True)
    while True:
        time.sleep(1)

if __name__ == "__main__":
    list(_rendered(endless(), Path(sys.argv[1]), 2))
"""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "endless.py"
        path.write_text(script)
        build = subprocess.Popen(
            [sys.executable, str(path), home], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": PYTHON}
        )
        assert build.stdout.readline() == b"working\n"
        workers = psutil.Process(build.pid).children()
        assert len(workers) >= 2
        build.kill()
        build.wait()
        gone, alive = psutil.wait_procs(workers, timeout=20)
        for worker in alive:
            worker.kill()
        assert alive == []
        assert len(gone) == len(workers)
