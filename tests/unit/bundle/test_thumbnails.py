"""Small pictures in a bundle: of whom they may be, what deletion and compaction leave of them, who sees them."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from attributary.attribution.open import open_engine
from attributary.building import build_bundle
from attributary.bundle.bundle import Bundle
from attributary.bundle.thumbnails import THUMBNAILS, Thumbnails, write_thumbnails
from attributary.delta.items import NewItem
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import BundleError, DeletedError, NotFoundError


@pytest.fixture(scope="module")
def pictured(tiny_corpus_dir, tiny_encoder_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("pictured") / "bundle"
    build_bundle(tiny_corpus_dir, tiny_encoder_dir, out, probes=100, workers=1, thumbnails=("CC0-1.0",))
    return out


def test_a_picture_is_there_for_those_licences_alone(pictured):
    found = Bundle.open(pictured).thumbnails
    assert len(found) == 150
    picture = Image.open(io.BytesIO(found.of(1000)))
    assert (picture.format, picture.size) == ("WEBP", (64, 64))
    assert found.of(1001) is None and found.of(5) is None


def test_a_bundle_without_them_opens_as_before(tiny_bundle_dir):
    assert Bundle.open(tiny_bundle_dir).thumbnails is None


def test_a_changed_file_is_found_at_open(pictured, tmp_path):
    copy = shutil.copytree(pictured, tmp_path / "copy")
    data = bytearray((copy / THUMBNAILS).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / THUMBNAILS).write_bytes(data)
    with pytest.raises(BundleError, match=THUMBNAILS):
        Bundle.open(copy)


def test_what_is_no_table_of_pictures_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(BundleError, match=THUMBNAILS):
        Thumbnails(tmp_path / "x")


def test_ids_need_not_be_in_order(tmp_path):
    assert write_thumbnails([(9, b"nine"), (-3, b"three"), (4, b"four")], tmp_path / "x") == 3
    found = Thumbnails(tmp_path / "x")
    assert [found.of(key) for key in (-3, 4, 9, 5)] == [b"three", b"four", b"nine", None]
    assert list(found.only(np.array([4, 7, -3]))) == [(-3, b"three"), (4, b"four")]


def test_a_deleted_item_shows_nothing_and_a_compaction_keeps_nothing_of_it(pictured, tmp_path, picture):
    copy = shutil.copytree(pictured, tmp_path / "copy")
    with Store(copy, open_engine) as store:
        store.delete(Selection(ids=(1000,)), why="opted out", who="test")
        with pytest.raises(DeletedError):
            store.engine.snapshot.thumbnail(1000)
        # Another picture under an id that is new: it never had a thumbnail.
        store.add([NewItem(id=1, picture=picture(3), caption="new", creator="Eve")], why="new", who="test")
        assert store.engine.snapshot.thumbnail(1) is None
        assert store.engine.snapshot.thumbnail(1004)
        with pytest.raises(NotFoundError):
            store.engine.snapshot.thumbnail(2)
        store.compact(why="test", who="test")
    after = Bundle.open(copy)
    assert len(after.thumbnails) == 149 and after.thumbnails.of(1000) is None and after.thumbnails.of(1004)


async def test_a_server_shows_them_to_callers_or_to_nobody(pictured):
    from attributary.gateway.config import GatewayConfig
    from attributary.gateway.registry import Registry
    from attributary.gateway.service import AttributionService
    from attributary.v1 import attribution_pb2 as pb

    class Served:
        pipeline = type("Pipeline", (), {"engine": open_engine(pictured)})

    class One(Registry):
        def __init__(self):
            pass

        def find(self, bundle_id):
            return Served

    asked = pb.GetThumbnailRequest(id=1000)
    for who, count in (("callers", 150), ("nobody", 0)):
        Served.pipeline.described = (None, None)
        # Only what these methods read of it.
        service = AttributionService.__new__(AttributionService)
        service.registry, service.config = One(), GatewayConfig(thumbnails=who)
        told = await service.describe_bundle(pb.DescribeBundleRequest(), None)
        assert told.thumbnail_count == count
        if who == "callers":
            reply = await service.get_thumbnail(asked, None)
            assert reply.image[8:12] == b"WEBP"
        else:
            with pytest.raises(NotFoundError, match="thumbnail"):
                await service.get_thumbnail(asked, None)
