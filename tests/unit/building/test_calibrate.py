"""Share parameters from copies: the copy's origin has most of it, and where copies tell nothing nobody has anything."""

from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from attributary.building.calibrate import COLDEST, calibrate
from attributary.building.embed import Probes
from attributary.bundle.items import SCHEMA, ItemRecord, ItemTable

N, D = 200, 32


class Exact:
    def __init__(self, vectors):
        self.vectors = vectors.astype(np.float32)

    def search(self, queries, count):
        return np.argsort(-queries @ self.vectors.T, axis=1)[:, :count].astype(np.int64)


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def items():
    records = [ItemRecord(at, f"c {at}", f"by {at % 7}", "", "CC0", "", at) for at in range(N)]
    return ItemTable(pa.Table.from_pylist([asdict(one) for one in records], SCHEMA))


def calibrated(items, noise):
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((N, D)))
    rows = np.arange(0, N, 2)
    copies = unit(vectors[rows] + noise * rng.standard_normal((len(rows), D)) / D**0.5)
    tokens = [np.zeros(at % 2, np.int64) for at in range(len(rows))]
    probes = Probes(rows, np.zeros((len(rows), 1, 1, 3), np.uint8), tokens, copies, np.zeros(len(rows), bool))
    return calibrate(probes, vectors.astype(np.float16), items, Exact(vectors), 50).image


def test_copies_that_are_told_give_their_origin_most(items):
    found = calibrated(items, 0.2)
    assert found.temperature > COLDEST and found.background < 1.0


def test_where_no_temperature_tells_copies_nobody_has_anything(items):
    """An encoder that sees other things than copies: a stranger's nearest had everything."""
    found = calibrated(items, 50.0)
    assert found.temperature == COLDEST and found.background == 1.0
