"""The gates: recognition among four captions, and what a swap of picture or prompt leaves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.gates import items_as_queries, kept_of_top, recognised
from attributary_train.subject.captions import Captions


@pytest.fixture(scope="module")
def levelled(subject):
    """The tiny subject's data with two levels: eight concepts and four hands."""
    count = len(subject.data)
    prompts = tuple(f"concept {at}" for at in range(8)) + tuple(f"hand {at}" for at in range(4))
    of_item = torch.tensor([[row % 8, 8 + row % 4] for row in range(count)])
    states = subject.data.text[:12]
    captions = Captions(("concept", "style"), prompts, states, of_item, torch.tensor([0.5, 0.5]))
    return replace(subject.data, captions=captions)


def asked(subject, levelled):
    told = levelled.captions.of_level("concept")
    queries = subject.queries
    return replace(
        queries, kinds=("concept",) * len(queries), prompts=tuple(told[at] for at in range(len(queries)))
    )


def test_a_sample_that_is_like_its_captions_items_is_recognised(subject, levelled):
    queries = asked(subject, levelled)
    told = np.array(levelled.captions.of_level("concept"))
    scores = np.stack([(told == prompt).astype(np.float32) for prompt in queries.prompts])
    assert recognised(scores, queries, levelled, "concept").value == 1.0
    assert recognised(-scores, queries, levelled, "concept").value == 0.0
    with pytest.raises(EvaluationError, match="level style"):
        recognised(scores, queries, levelled, "style")
    with pytest.raises(EvaluationError, match="captions"):
        recognised(scores, queries, subject.data, "concept")


def test_an_item_is_not_recognised_by_itself(levelled):
    real = items_as_queries(levelled, "w", "concept", 48)
    alone = np.eye(len(levelled), dtype=np.float32)
    # Only its own cosine is above the others': without it nothing tells, and the first of four equals wins.
    found = recognised(alone - 1e-3 * np.arange(len(levelled), dtype=np.float32), real, levelled, "concept")
    assert found.value < 0.6
    assert recognised(alone + 0, real, levelled, "concept").value == 1.0


def test_swaps_tell_readers_from_lookers(subject):
    class Looks:
        def score(self, queries, ids):
            flat = queries.latents.flatten(1)
            return (flat @ subject.data.latents.flatten(1).T).numpy()

    class Reads:
        def score(self, queries, ids):
            return (queries.text.flatten(1) @ subject.data.text.flatten(1).T).numpy()

    looks, reads = (kept_of_top(method, subject.queries, subject.data) for method in (Looks(), Reads()))
    assert looks["prompt swapped"].min() == 1.0 and reads["picture swapped"].min() == 1.0
    assert looks["picture swapped"].mean() < 1.0 and reads["prompt swapped"].mean() < 1.0
