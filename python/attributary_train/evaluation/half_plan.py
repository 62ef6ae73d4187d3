"""Which models are trained for the truth: halves of the items, halves of the creators, all, and all but a creator.

Halves come in pairs: what one keeps, the other leaves out, so that every item is in exactly half of the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.left_out import run_name
from attributary_train.evaluation.retrain import Mask
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.train import Run

# Seeds of a half's second training, and of the first one that is trained on everything.
SECOND, WHOLE = 1_000, 2_000
# What names of halves that hold whole creators begin with.
BY_CREATOR = "creators-"


@dataclass(frozen=True)
class Half:
    """One training: `name` says which subset and which seed; `subset` is its number, -1 for all items."""

    name: str
    subset: int
    run: Run


def half_masks(total: int, pairs: int, seed: int = 0) -> Mask:
    """bool [2 * pairs, total]: rows 2p and 2p + 1 are complements, each half of the items (one more if odd).

    A pair is the same whatever the number of pairs.
    """
    if pairs < 2:
        raise EvaluationError("pairs", f"{pairs}; a rank correlation needs at least 2")
    masks = np.zeros((2 * pairs, total), bool)
    for pair in range(pairs):
        kept = np.random.default_rng((seed, pair)).permutation(total)[: total // 2]
        masks[2 * pair, kept] = True
        masks[2 * pair + 1] = ~masks[2 * pair]
    return masks


def creator_masks(creators: Sequence[str], pairs: int, seed: int = 0) -> Mask:
    """bool [2 * pairs, N]: as `half_masks`, but all of a creator's items are on one side; `creators`: N, that of each.

    Creators with many items choose first, then the sides fill up evenly: halves differ by a few items at most, unless
    one creator has more than half of all. A pair is the same whatever the number of pairs.
    """
    names, of_item, counts = np.unique(np.array(creators), return_inverse=True, return_counts=True)
    if pairs < 2 or len(names) < 2:
        raise EvaluationError(
            "creators", f"{pairs} pairs of {len(names)} creators; at least 2 of both are needed"
        )
    masks = np.zeros((2 * pairs, len(of_item)), bool)
    for pair in range(pairs):
        rng = np.random.default_rng((seed, pair, len(names)))
        # Within a factor of two of each other, they choose in a random order, so that no two are always apart.
        order = np.lexsort((rng.random(len(names)), -np.floor(np.log2(counts))))
        room = np.array([len(of_item) / 2, len(of_item) / 2])
        first = np.zeros(len(names), bool)
        for name in order:
            fits = np.where(room >= counts[name], room, 0.0)
            side = rng.choice(2, p=fits / fits.sum()) if fits.any() else int(np.argmax(room))
            room[side] -= counts[name]
            first[name] = side == 0
        masks[2 * pair] = first[of_item]
        masks[2 * pair + 1] = ~masks[2 * pair]
    return masks


def plan_by_creator(recipe: Recipe, masks: Mask) -> list[Half]:
    """Trainings on halves that hold whole creators; their steps and seed are those of the other halves."""
    short = replace(recipe, steps=max(1, round(recipe.steps / 2)))
    runs = [Run(short, mask, recipe.seed, recipe.seed) for mask in masks]
    return [Half(f"{BY_CREATOR}half-{at:03d}", at, run) for at, run in enumerate(runs)]


def plan_halves(recipe: Recipe, masks: Mask, second: int, whole: int) -> list[Half]:
    """All trainings, in the order in which an early end leaves the most: after four halves a second seed of an earlier
    one, while there are some left; then `whole` models of all items, other seeds than the model under study.

    A half takes half of the steps: every kept item is seen as often as by the model under study.
    """
    if not 0 <= second <= len(masks):
        raise EvaluationError("second", f"{second} halves trained twice, of {len(masks)}")
    short = replace(recipe, steps=max(1, round(recipe.steps / 2)))
    out: list[Half] = []
    again = iter(range(second))
    for number, mask in enumerate(masks):
        out.append(Half(f"half-{number:03d}", number, Run(short, mask, recipe.seed, recipe.seed)))
        if number % 4 == 3 and (at := next(again, None)) is not None:
            out.append(_second(short, masks, at, recipe.seed))
    out += [_second(short, masks, at, recipe.seed) for at in again]
    everything = np.ones(masks.shape[1], bool)
    for at in range(whole):
        seed = recipe.seed + WHOLE + at
        out.append(Half(f"whole-{at:03d}", -1, Run(recipe, everything, seed, seed)))
    return out


def plan_creators(
    recipe: Recipe, creators: Sequence[str], names: Sequence[str], seeds: int = 2
) -> list[Half]:
    """Trainings on everything but a creator's items, `seeds` of each; `creators`: N, that of each item; `names`: whose.

    Their steps are those of the model under study: what is left is seen a little more often, as in leave-K-out. Their
    seeds are those of the models of all items, to be compared with.
    """
    of_item = np.array(creators)
    out = []
    for at in range(seeds):
        seed = recipe.seed + WHOLE + at
        for number, name in enumerate(names):
            kept = of_item != name
            if kept.all():
                raise EvaluationError("creators", f"{name!r} has no item")
            out.append(Half(f"creator-{number:03d}-{at}", -1, Run(recipe, kept, seed, seed)))
    return out


def plan_without(recipe: Recipe, kept: Mapping[str, Sequence[Mask]]) -> list[Half]:
    """Trainings on what methods leave of the items, group by group, so that an early end leaves whole groups."""
    seed = recipe.seed + WHOLE
    return [
        Half(run_name(method, group), -1, Run(recipe, masks[group], seed, seed))
        for group in range(min(map(len, kept.values())))
        for method, masks in kept.items()
    ]


def creators_of(creators: Sequence[str], least: int, most: int) -> list[str]:
    """Creators with `least` to `most` items, by name: fewer tell nothing, more are the corpus itself."""
    names, counts = np.unique(np.array(creators), return_counts=True)
    return [str(name) for name, count in zip(names, counts, strict=True) if least <= count <= most]


def _second(recipe: Recipe, masks: Mask, at: int, seed: int) -> Half:
    other = seed + SECOND
    return Half(f"half-{at:03d}-second", at, Run(recipe, masks[at], other, other))
