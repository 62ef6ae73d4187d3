"""benchmarks/soak.py calls flat what is flat, and nothing that grows."""

import pytest

SCRIPT = "soak"


@pytest.fixture
def soak(script):
    return script


def rows(**changes):
    flat = {"memory_mib": 300.0, "descriptors": 30, "threads": 24, "p99_ms": 20.0, "failed": 0}
    return [flat | {name: change(minute) for name, change in changes.items()} for minute in range(30)]


def met(soak, found):
    return [one["met"] for one in soak.verdict(found)]


def test_a_flat_line_is_flat_after_its_warm_up(soak):
    warm_up = rows(
        memory_mib=lambda minute: 300.0 - 100 * (minute < 3), p99_ms=lambda minute: 20.0 + minute % 5
    )
    assert met(soak, warm_up) == [True] * 5


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (0, {"memory_mib": lambda minute: 300.0 + 2 * minute}),
        (1, {"descriptors": lambda minute: 30 + minute}),
        (2, {"threads": lambda minute: 24 + minute // 5}),
        (3, {"p99_ms": lambda minute: 20.0 * 1.03**minute}),
        (4, {"failed": lambda minute: int(minute == 7)}),
    ],
)
def test_what_grows_is_told(soak, place, changes):
    found = met(soak, rows(**changes))
    assert [number for number, fits in enumerate(found) if not fits] == [place]
