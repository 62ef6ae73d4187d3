"""Photographs in LeCun's format, read from a small package made here in the layout of the real one."""

import gzip

import numpy as np
import pytest
from PIL import Image

from attributary_train.corpus.build import build
from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.sources.fashion_mnist import CLASSES, IMAGES, LABELS, SIDE
from attributary_train.corpus.sources.registry import sources_named
from attributary_train.errors import CorpusError, SubjectError
from attributary_train.subject.recipe import preset
from attributary_train.subject.selection import random_selection, select

COUNT = 30


def idx(values):
    shape = np.array(values.shape, ">u4").tobytes()
    return b"\x00\x00\x08" + bytes([values.ndim]) + shape + values.tobytes()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package's folder; pictures are random blocks, no two alike."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (COUNT, SIDE // 7, SIDE // 7), np.uint8).repeat(7, 1).repeat(7, 2)
    folder = tmp_path / "package/usr/share/datasets/fashion-mnist"
    folder.mkdir(parents=True)
    (folder / IMAGES).write_bytes(gzip.compress(idx(pictures)))
    (folder / LABELS).write_bytes(gzip.compress(idx(np.arange(COUNT, dtype=np.uint8) % 10)))
    monkeypatch.setattr(PackageCache, "debian", lambda self, pin: (tmp_path / "package", pin.version))
    return folder, pictures


def photographs(tmp_path):
    return build(tmp_path / "out", sources_named(["fashion-mnist"]), cache=tmp_path / "cache", workers=1)


def test_photographs_are_kept_as_they_are(tmp_path, package):
    corpus = photographs(tmp_path)
    assert len(corpus) == COUNT
    first, last = corpus[0], corpus[-1]
    assert (first.caption, last.caption) == (CLASSES[0], "ankle boot")
    assert (last.concept_id, last.creator, last.licence_spdx) == ("ankle-boot", "Zalando SE", "MIT")
    assert last.uri.endswith(f"{IMAGES}#00029.png")
    assert len({item.uri for item in corpus}) == COUNT
    # Grey as RGB, at their own size: nothing is enlarged but for the eye.
    pixels = corpus.pixels(last.id)
    assert np.array_equal(pixels, package[1][-1][..., None].repeat(3, 2))
    assert corpus.is_own(last.id) and Image.open(corpus.root / last.file).size == (SIDE, SIDE)


@pytest.mark.parametrize("harm", ["gone", "cut", "other", "short"])
def test_a_damaged_package_is_named(tmp_path, package, harm):
    folder, _ = package
    labels = folder / LABELS
    if harm == "gone":
        labels.unlink()
    elif harm == "cut":
        labels.write_bytes(labels.read_bytes()[:-9])
    elif harm == "other":
        labels.write_bytes(gzip.compress(b"no numbers"))
    else:
        labels.write_bytes(gzip.compress(idx(np.zeros(3, np.uint8))))
    with pytest.raises(CorpusError, match=r"package"):
        photographs(tmp_path)


def test_photographs_are_drawn_at_random_and_held_out_without_their_likes(tmp_path, package):
    corpus = photographs(tmp_path)
    chosen = random_selection(corpus, train=20, held_out=6)
    assert chosen == random_selection(corpus, train=20, held_out=6)
    assert len(set(chosen.train)) == 20 and len(set(chosen.recombined)) == 6 and not chosen.unseen
    groups = [
        {corpus.item(number).near_dup_group for number in ids} for ids in (chosen.train, chosen.recombined)
    ]
    assert not groups[0] & groups[1] and len(groups[1]) == 6
    # The preset's own numbers need the whole corpus, and no emoji.
    with pytest.raises(SubjectError, match="10000"):
        select(corpus, preset("photographs").items)
