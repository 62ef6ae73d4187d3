"""Which items of a table share a claim: those of one number, and nobody by having none."""

from pathlib import Path

import pyarrow as pa
import pytest

from attributary.building.source import items_table


def told(groups, kind):
    count = len(groups)
    table = pa.table(
        {
            "id": list(range(count)),
            "caption": ["a hill"] * count,
            "creator": ["Ann"] * count,
            "near_dup_group": pa.array(groups, kind),
        }
    )
    return items_table(table, Path("items.parquet"))["near_dup_group"].to_pylist()


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.int16()])
def test_a_negative_group_or_none_is_a_group_of_its_own(kind):
    found = told([-1, 7, -1, 7, None, -5], kind)
    assert found[1] == found[3] == 7
    assert len(set(found)) == 5
    assert min(found) >= 0


def test_groups_that_are_named_stay():
    assert told([3, 0, 3], pa.int64()) == [3, 0, 3]


def test_numbers_without_a_sign_may_be_missing():
    assert told([2, None, 2], pa.uint32()) == [2, 3, 2]
