"""Is a world one where looking does not decide? What is asked before any label is made, on validation queries alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.ranking import Floats, overlap_rows
from attributary_train.evaluation.stats import Interval, mean_interval
from attributary_train.subject.data import SubjectData
from attributary_train.subject.queries import Queries
from attributary_train.teacher.base import Attributor

# Captions that a sample's own is to be told from.
OTHERS = 3
ITEM = "item"


def recognised(
    scores: npt.NDArray[np.float32], queries: Queries, data: SubjectData, level: str, *, seed: int = 0
) -> Interval:
    """Share of the samples of a level's captions that lie nearest to the items of their own caption, among four.

    scores: cosines of frozen picture features, float32 [Q, N]; nearest by the mean cosine to a caption's items, a query
    that is an item (`items_as_queries`) left out of them. Chance is a quarter. Raises `EvaluationError` if no query
    asks on that level.
    """
    if data.captions is None:
        raise EvaluationError("captions", "the model has one an item: there is nothing to recognise among")
    captions_of = np.array(data.captions.of_level(level))
    names = sorted(set(captions_of.tolist()))
    rows = [
        row
        for row, (kind, prompt) in enumerate(zip(queries.kinds, queries.prompts, strict=True))
        if kind == level and prompt in names
    ]
    if not rows:
        raise EvaluationError("queries", f"none asks on level {level}")
    rng = np.random.default_rng(seed)
    right = []
    for row in rows:
        own = queries.prompts[row]
        other = [name for name in names if name != own]
        among = [own, *(other[at] for at in rng.permutation(len(other))[:OTHERS])]
        free = data.ids != queries.seeds[row] if queries.splits[row] == ITEM else np.ones(len(data), bool)
        if not (free & (captions_of == own)).any():
            continue
        means = [float(scores[row, free & (captions_of == name)].mean()) for name in among]
        right.append(float(int(np.argmax(means)) == 0))
    return mean_interval(right)


def items_as_queries(
    data: SubjectData, weights: str, level: str, count: int = 200, *, seed: int = 0
) -> Queries:
    """Items with their captions of a level as queries, seeds being their numbers: what recognition can reach."""
    if data.captions is None:
        raise EvaluationError("captions", "the model has one an item: there is nothing to recognise among")
    rows = np.sort(np.random.default_rng(seed).permutation(len(data))[:count]).tolist()
    captions_of = data.captions.of_level(level)
    return Queries(
        tuple(f"{ITEM}-{row:04d}" for row in rows),
        (ITEM,) * len(rows),
        (level,) * len(rows),
        tuple(captions_of[row] for row in rows),
        tuple(int(data.ids[row]) for row in rows),
        data.latents[rows],
        data.text[rows],
        weights,
        1,
        1.0,
    )


def kept_of_top(method: Attributor, queries: Queries, data: SubjectData, count: int = 9) -> dict[str, Floats]:
    """How much of a method's first `count` items stays when the picture, or the prompt, is another query's, [Q] each.

    A method that keeps all of it when the picture changes reads, one that keeps all when the prompt changes looks.
    """
    order = np.roll(np.arange(len(queries)), -1).tolist()
    other = queries.take(order)
    pictures = replace(queries, latents=other.latents)
    prompts = replace(queries, prompts=other.prompts, text=other.text)
    base = method.score(queries, data.ids)
    return {
        "picture swapped": overlap_rows(base, method.score(pictures, data.ids), count),
        "prompt swapped": overlap_rows(base, method.score(prompts, data.ids), count),
    }
