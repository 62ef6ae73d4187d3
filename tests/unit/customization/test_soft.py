"""Soft scores: what is fitted is what is served, and shares mean what they say."""

import numpy as np
import pytest

from attributary import kernels
from attributary.bundle.manifest import ShareCalibration
from attributary_train.customization.soft import PLAIN, Queried, ask, diagram, fit, nobody_diagram, shares
from attributary_train.errors import CustomizationError

CANDIDATES = 40


@pytest.fixture(scope="module")
def asked() -> Queried:
    """120 queries of one or two items; half the time the source is away; a quarter of the sources are hard to tell."""
    rng = np.random.default_rng(0)
    cosines, target, nobody = [], [], []
    for query in range(120):
        own = 1 + query % 2
        row = rng.normal(0.3, 0.08, CANDIDATES)
        mass = np.zeros(CANDIDATES)
        present = query % 4 < 2
        if present:
            row[:own] = rng.normal(0.75 if query % 8 < 6 else 0.45, 0.05, own)
            mass[:own] = 1 / own
        order = np.argsort(-row)
        cosines.append(row[order])
        target.append(mass[order])
        nobody.append(float(not present))
    away = np.array(nobody)
    return Queried(np.array(cosines, np.float32), np.array(target), away, away == 0, np.arange(120) // 4)


def test_fitted_shares_are_reliable_where_a_plain_softmax_is_not(asked):
    made = fit(asked)
    assert diagram(asked, made).error.value < 0.25 * diagram(asked, PLAIN).error.value
    assert diagram(asked, made).absolute < 0.5 * diagram(asked, PLAIN).absolute
    given, diffuse = shares(asked, made)
    assert np.allclose(given.sum(axis=1) + diffuse, 1)
    assert (given == 0).mean() > 0.5
    assert np.median(diffuse[~asked.there]) > 0.8 > 0.2 > np.median(diffuse[asked.there])
    assert nobody_diagram(asked, made).error.value < 0.15


def test_served_shares_are_the_kernels(asked):
    """The fitted numbers in the kernel that serves them, on vectors with these very cosines."""
    made = fit(asked)
    given, diffuse = shares(asked, made)
    for query in range(0, 120, 17):
        vectors = np.zeros((CANDIDATES, CANDIDATES + 1), np.float16)
        vectors[:, 0] = asked.cosines[query]
        vectors[np.arange(CANDIDATES), np.arange(1, CANDIDATES + 1)] = np.sqrt(1 - asked.cosines[query] ** 2)
        query_vector = np.zeros((1, CANDIDATES + 1), np.float32)
        query_vector[0, 0] = 1
        rows = np.arange(CANDIDATES, dtype=np.int32)
        found = kernels.rescore(
            query_vector,
            np.arange(CANDIDATES, dtype=np.int64)[None],
            vectors,
            rows,
            rows,
            np.array([[made.temperature, made.threshold, made.background, 0, -1, 0, 0, 1, 1]], np.float32),
            top_k=CANDIDATES,
            top_creators=1,
        )
        # fp16 rounds a cosine by up to 2.5e-4.
        assert np.abs(found.share[0] - given[query]).max() < 0.02
        assert abs(found.diffuse[0] - diffuse[query]) < 0.02


def test_a_threshold_cuts_to_exact_zeros(asked):
    cut = ShareCalibration(temperature=0.1, threshold=0.2, background=0.3, ood_similarity=-1.0)
    given, diffuse = shares(asked, cut)
    weight = np.exp((asked.cosines - np.maximum(asked.cosines.max(1), 0.3)[:, None]) / 0.1)
    assert np.array_equal(given == 0, weight <= 0.2)
    assert (given.sum(axis=1) <= 1 + 1e-12).all() and (diffuse > 0).all()


def test_too_few_queries_are_refused(asked):
    with pytest.raises(CustomizationError, match="at least 10 are needed"):
        fit(asked.take(np.arange(120) < 12))


def test_asking_twice(made_gallery):
    gallery, embedded = made_gallery
    rows = gallery.rows("validation")
    found = ask(gallery, embedded, rows, candidates=12)
    assert found.cosines.shape == (2 * len(rows), 12)
    assert found.there.tolist() == [True, False] * len(rows)
    assert np.allclose(found.nobody + found.target.sum(axis=1), 1)
    assert (found.nobody[1::2] == 1).all()
    assert (np.diff(found.cosines, axis=1) <= 0).all()
    assert (found.target[1::2] == 0).all()
    assert (found.target[::2].sum(axis=1) <= 1 + 1e-12).all()
    everything = ask(gallery, embedded, rows, candidates=20)
    assert everything.target[::2].sum() >= found.target[::2].sum()
    with pytest.raises(CustomizationError, match="none of this split"):
        ask(gallery, embedded, rows[:0])
