"""A picture whose edges are not the generator's pays nobody, whatever its embedding resembles."""

from dataclasses import replace

import numpy as np
import pytest

from attributary.attribution.engine import Engine
from attributary.attribution.pixel_statistics import COUNT, pixel_statistics
from attributary.attribution.score import _FLOOR, _OOD, _calibrated, calibration_of
from attributary.attribution.types import Filter, Prepared, Query
from attributary.bundle.manifest import (
    PIXEL_STATISTICS_COUNT,
    Calibration,
    PixelFlag,
    ShareCalibration,
)
from attributary.errors import InvalidArgumentError
from attributary.gateway import translate
from attributary.pictures.looks import shows_nothing
from attributary.v1 import attribution_pb2 as pb
from attributary_train.calibration.foreign import flat, gradients, noise, pages
from attributary_train.calibration.pixels import fit_pixels


def soft(count, seed):
    """What a generator may make: soft blots on white."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:32, 0:32]
    made = []
    for _ in range(count):
        paper = np.full((32, 32, 3), 255.0)
        for _ in range(3):
            y, x, wide = *rng.uniform(8, 24, 2), rng.uniform(2, 6)
            ink = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 2 / wide**2)[..., None]
            paper -= ink * rng.uniform(0, 200, 3)
        made.append((np.clip(paper, 0, 255) + rng.uniform(0, 2)).clip(0, 255).astype(np.uint8))
    return np.stack(made)


@pytest.fixture(scope="module")
def flag():
    return fit_pixels(pixel_statistics(soft(600, 0)), 0.02)


def test_the_manifest_knows_how_many_statistics_there_are():
    assert COUNT == PIXEL_STATISTICS_COUNT
    assert pixel_statistics(soft(2, 0)).shape == (2, COUNT)


@pytest.mark.parametrize("foreign", [flat, gradients, noise, pages])
def test_kinds_that_were_never_fitted_are_flagged_and_alarms_are_few(flag, foreign):
    found = flag.certainty(pixel_statistics(np.stack(foreign(40, 32, 1))))
    assert (found == 0).mean() >= 0.95
    assert (flag.certainty(pixel_statistics(soft(500, 2))) == 0).mean() <= 0.05


def test_a_picture_is_judged_alone_as_in_any_batch(flag):
    for side in (32, 33, 64, 224):
        pixels = np.random.default_rng(side).integers(0, 255, (9, side, side, 3), np.uint8)
        pixels[3:6] = np.linspace(0, 255, side).astype(np.uint8)[:, None, None]
        told = flag.distance(pixel_statistics(pixels))
        alone = [flag.distance(pixel_statistics(pixels[row : row + 1]))[0] for row in range(9)]
        np.testing.assert_array_equal(told, alone)


def test_shares_rise_from_nothing_at_the_limit(flag):
    statistics = pixel_statistics(soft(1, 3))
    at = float(flag.distance(statistics)[0])
    told = [
        replace(flag, limit=at + over * 0.5, margin=0.5).certainty(statistics)[0]
        for over in (-0.1, 0, 0.5, 1)
    ]
    assert told[:2] == [0, 0] and told[2] == pytest.approx(0.5) and told[3] == pytest.approx(1.0)


def test_too_few_pictures_give_no_flag():
    assert not fit_pixels(pixel_statistics(soft(100, 0)), 0.05)


def test_foreign_pixels_are_above_any_similarity_and_an_embedding_alone_is_not_judged(flag):
    shares = ShareCalibration(0.1, 0.0, 0.5, 0.2, diffuse_floor=0.25)
    known = Calibration("test", shares, shares, flag)
    own, foreign = soft(1, 4)[0], np.stack(noise(1, 32))[0]
    asked = [Prepared(1, 1, Filter(), False, pixels=pixels) for pixels in (own, foreign, None)]
    rows = _calibrated(known, asked)
    plain = calibration_of(known, [False])[0]
    assert rows[0, _FLOOR] < 1 and rows[0, _OOD] == plain[_OOD]
    assert np.isposinf(rows[1, _OOD])
    np.testing.assert_array_equal(rows[2], plain)
    # An item's own picture is known for sure.
    own_picture = Prepared(1, 1, Filter(), False, pixels=foreign, showing=np.array([3]))
    np.testing.assert_array_equal(_calibrated(known, [own_picture])[0], plain)
    # A query is judged alone as in any batch.
    np.testing.assert_array_equal(_calibrated(known, asked[1:2])[0], rows[1])


@pytest.mark.parametrize(
    "damage", [{"statistics": "other"}, {"mean": (0.0,)}, {"limit": float("nan")}, {"margin": -1.0}]
)
def test_a_flag_that_is_not_one_is_refused_by_name(flag, damage):
    assert flag.problem() is None and PixelFlag().problem() is None
    assert replace(flag, **damage).problem()


@pytest.fixture
def judging(tiny_engine, flag):
    """An engine whose bundle tells strangers by their pixels alone."""
    manifest = tiny_engine.bundle.manifest
    manifest = replace(manifest, calibration=replace(manifest.calibration, pixels=flag))
    return Engine(replace(tiny_engine.bundle, manifest=manifest), tiny_engine.encoder, tiny_engine.index)


def embedded(engine, pixels):
    """What Embed says of a picture, and the query that it makes over the wire."""
    prepared = engine.prepare(Query(pixels=pixels))
    reply = translate.from_embedding(engine, prepared, engine.embed([prepared])[0])
    asked = pb.Query.FromString(pb.Query(embedding=reply.embedding).SerializeToString())
    return reply.embedding, translate.to_query(asked, engine.limits, "query")


@pytest.mark.parametrize("kind", ["own", "noise"])
def test_the_verdict_on_pixels_travels_with_the_embedding(judging, kind):
    pixels = soft(1, 4)[0] if kind == "own" else np.stack(noise(1, 32))[0]
    told, query = embedded(judging, pixels)
    assert told.HasField("certainty") and (told.certainty == 0) == (kind == "noise")
    asked, again = judging.attribute(Query(pixels=pixels)), judging.attribute(query)
    assert asked.out_of_distribution == again.out_of_distribution == (kind == "noise")
    assert again.diffuse_share == pytest.approx(asked.diffuse_share, abs=1e-5)
    assert not asked.unjudged and not again.unjudged


def test_an_embedding_alone_is_told_to_be_unjudged(judging, tiny_engine):
    told, _ = embedded(judging, soft(1, 4)[0])
    vector = np.array(told.values, np.float32)
    alone = judging.attribute(Query(embedding=vector))
    assert alone.unjudged and not alone.out_of_distribution
    # What its cosines give away is judged.
    foreign = judging.attribute(Query(embedding=-vector))
    assert foreign.out_of_distribution and not foreign.unjudged
    # Where pixels are not judged at all, cosines judge embeddings as they do pictures.
    assert not tiny_engine.attribute(Query(embedding=vector)).unjudged
    assert not embedded(tiny_engine, np.stack(noise(1, 32))[0])[0].HasField("certainty")


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (250, 20, 20)])
@pytest.mark.parametrize("engine", ["tiny_engine", "judging"])
def test_a_picture_of_one_colour_is_nobodys_alone_in_a_batch_and_by_its_embedding(engine, colour, request):
    engine = request.getfixturevalue(engine)
    blank = np.full((40, 60, 3), colour, np.uint8)
    blank[::3] ^= 3  # as an encoding leaves it
    drawn = blank.copy()
    drawn[10:30, 20:40] = 128
    # Laid where an item is, which a picture of one colour may happen to be.
    at = engine.bundle.vectors[0].astype(np.float32)
    batch = [engine.prepare(Query(pixels=pixels)) for pixels in (blank, drawn)]
    for prepared in batch:
        prepared.embedding = at
    found = engine.run(batch)
    assert found[0].out_of_distribution and batch[1].certainty is None
    assert found[1].out_of_distribution == engine.run(batch[1:])[0].out_of_distribution
    assert found[0].diffuse_share == 1 and not any(item.share for item in found[0].items)
    assert found[0].creators == () and found[0].items
    _, query = embedded(engine, blank)
    assert engine.attribute(query).out_of_distribution and not found[0].unjudged


def test_a_dot_or_a_gradient_that_nobody_sees_is_nobodys_and_a_line_is_a_drawing(tiny_engine):
    blank = np.full((64, 64, 3), 255, np.uint8)
    dot, line, rising = blank.copy(), blank.copy(), blank - np.arange(64, dtype=np.uint8)[:, None, None] // 10
    dot[31:33, 31:33] = 0
    line[30:32, 5:60] = 0
    assert [shows_nothing(pixels) for pixels in (dot, rising, line)] == [True, True, False]
    found = [tiny_engine.prepare(Query(pixels=pixels)).certainty for pixels in (rising, line)]
    assert found == [0.0, None]


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_certainty_that_is_none_is_refused_by_name(judging, value):
    vector = np.ones(judging.spec.dim, np.float32)
    with pytest.raises(InvalidArgumentError, match=r"query.embedding.certainty: must be from 0 to 1"):
        judging.prepare(Query(embedding=vector, certainty=value))
