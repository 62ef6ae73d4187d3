"""Bundles that a test may change, and a store on one."""

import shutil

import pytest

from attributary.attribution.open import open_engine
from attributary.building import build_bundle
from attributary.delta.items import NewItem
from attributary.delta.store import Store


@pytest.fixture(scope="session")
def small_bundle_dir(tiny, tiny_encoder_dir, tmp_path_factory):
    """A bundle of 60 items; never changed in place."""
    place = tmp_path_factory.mktemp("small")
    build_bundle(
        tiny.draw_corpus(place / "corpus", 60), tiny_encoder_dir, place / "bundle", probes=40, workers=1
    )
    return place / "bundle"


@pytest.fixture
def bundle_dir(small_bundle_dir, tmp_path):
    """A copy of it."""
    return shutil.copytree(small_bundle_dir, tmp_path / "bundle")


@pytest.fixture
def store(bundle_dir):
    with Store(bundle_dir, open_engine) as opened:
        yield opened


@pytest.fixture
def new_item(picture):
    """Function: id, number of a picture, fields -> an item; the pictures are none of the bundle's when above 59."""

    def make(item_id, number=100, **fields):
        return NewItem(item_id, picture(number), **{"caption": "a red ellipse", "creator": "Eve", **fields})

    return make
