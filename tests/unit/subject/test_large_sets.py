"""What would not fit into memory: batches without an order of all items, arrays written in pieces and mapped."""

import numpy as np
import pytest

from attributary_train.errors import SubjectError
from attributary_train.subject import train
from attributary_train.subject.data import kept_rows
from attributary_train.subject.recipe import preset
from attributary_train.subject.selection import select
from attributary_train.subject.train import Run, batch_rows
from tests.support.synthetic import synthetic_corpus


def test_a_batch_of_a_large_set_is_drawn_without_an_order_of_all(monkeypatch):
    monkeypatch.setattr(train, "_PERMUTED", 50)
    kept = np.ones(60, bool)
    kept[::3] = False
    run = Run(preset("tiny"), kept, 0, 0)
    rows = batch_rows(run, 7, 60)
    assert len(rows) == run.recipe.batch == len(set(rows.tolist())) and kept[rows].all()
    assert np.array_equal(rows, batch_rows(run, 7, 60)) and not np.array_equal(rows, batch_rows(run, 8, 60))
    drawn = np.concatenate([batch_rows(run, step, 60) for step in range(40)])
    assert set(drawn.tolist()) == set(np.flatnonzero(kept).tolist())
    few = np.zeros(60, bool)
    few[:3] = True
    assert set(batch_rows(Run(preset("tiny"), few, 0, 0), 0, 60).tolist()) == {0, 1, 2}


def test_rows_are_written_as_they_come_rounded_and_mapped(tmp_path):
    pieces = [np.full((2, 3), 1 / 3, np.float32), np.full((1, 3), 7.0, np.float32)]
    made = []

    def make():
        for piece in pieces:
            made.append(len(piece))
            yield piece

    half = kept_rows(tmp_path, "text", "about", 3, make, True)
    assert half.dtype == np.float16 and isinstance(half, np.memmap)
    assert np.array_equal(half, np.concatenate(pieces).astype(np.float16))
    again = kept_rows(tmp_path, "text", "about", 3, make, True)
    assert np.array_equal(again, half) and made == [2, 1]
    assert kept_rows(tmp_path, "text", "about", 3, make, False).dtype == np.float32
    pieces[1][0, 0] = 1e6
    with pytest.raises(SubjectError, match="a value is beyond float16"):
        kept_rows(tmp_path, "text", "other", 3, make, True)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("items", ["reference", "attribution"])
def test_a_selection_that_a_corpus_is_too_small_for_names_the_option(tmp_path, items):
    with pytest.raises(SubjectError, match="--all-items"):
        select(synthetic_corpus(tmp_path / "corpus", 6), items)
