"""What search_peers.py calls the fastest: speeds at equal recall, and no aim met by a faster, worse index."""

import pytest

SCRIPT = "search_peers"


@pytest.fixture
def peers(script):
    return script


def row(index, recall, speed, memory=100.0):
    about = {"items": 1_000, "threads": 1, "k": 100, "batch": 64, "setting": []}
    return {**about, "index": index, "recall": recall, "queries_cpu_s": speed, "bytes_per_item": memory}


def test_a_faster_setting_of_lower_recall_is_not_compared(peers):
    found = peers.best([row("a", 0.96, 10), row("a", 0.90, 99), row("a", 0.97, 5)])
    assert [(r["recall_at_least"], r["queries_cpu_s"]) for r in found] == [(0.9, 99), (0.95, 10)]


def test_every_peer_is_beside_ours_of_no_more_memory(peers):
    rows = [
        row("attributary", 0.96, 10),
        row("attributary, large", 0.96, 50, memory=800.0),
        row("small", 0.96, 8),
        row("smaller", 0.96, 8, memory=50.0),
        row("large", 0.96, 40, memory=900.0),
        row("exact", 1.0, 1, memory=1_000.0),
    ]
    told = peers.aims(peers.best(rows), [1_000])
    assert [(item["value"], item["met"]) for item in told] == [
        (1.25, True),
        (None, False),
        (1.25, True),
        (50.0, True),
        (0.1, True),
    ]


def test_a_recall_that_was_not_reached_is_no_aim_met(peers):
    told = peers.aims(peers.best([row("attributary", 0.9, 10), row("small", 0.96, 8)]), [1_000])
    assert [(item["value"], item["met"]) for item in told] == [(None, False)]
