"""Which items of the built-in corpus the reference model learns, and which it is later asked about without having."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attributary_train.corpus import Corpus, Item
from attributary_train.errors import SubjectError
from attributary_train.subject.prompts import BY_CREATOR

# What to do with a corpus that is not the built-in one.
ALL_ITEMS = "train on a corpus of your own with --all-items"


@dataclass(frozen=True)
class Selection:
    """Ids. `train`: what the model sees; `recombined`: left-out drawings of a known concept by a known hand; `unseen`:
    drawings of concepts that it never saw."""

    train: tuple[int, ...]
    recombined: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()


def reference_split(
    corpus: Corpus,
    *,
    concepts: int = 200,
    styles: int = 5,
    drawings: int = 100,
    unseen: int = 100,
    seed: int = 0,
) -> Selection:
    """Choose `concepts` in `styles` styles each, two fifths of them without one, and `drawings` by single creators.

    A concept drawn by several hands is what makes attribution hard enough to be worth measuring: the caption fits
    all of them, the picture only some. The number of items stays small because every label costs a pass over them.
    Raises `SubjectError` if the corpus has too few such concepts.
    """
    rng = np.random.default_rng(seed)
    by_concept = by_concept_and_style(corpus)
    single = [item.id for item in corpus if item.style_set in BY_CREATOR]
    full = sorted(name for name, hands in by_concept.items() if len(hands) >= styles)
    if len(full) < concepts + unseen:
        raise SubjectError(
            "concepts",
            f"{len(full)} concepts have {styles} styles; {concepts} + {unseen} are needed for the reference selection; "
            f"{ALL_ITEMS}",
        )
    order = [full[at] for at in rng.permutation(len(full))]
    split = drawings_of(by_concept, order[:concepts], order[concepts : concepts + unseen], styles)
    chosen = [single[at] for at in rng.permutation(len(single))[:drawings]]
    return replace(split, train=tuple(sorted([*split.train, *chosen])))


def by_concept_and_style(items: Iterable[Item]) -> dict[str, dict[str, Item]]:
    """The first drawing of each concept in each style set, those by single creators left aside."""
    found: dict[str, dict[str, Item]] = defaultdict(dict)
    for item in items:
        if item.style_set not in BY_CREATOR:
            found[item.concept_id].setdefault(item.style_set, item)
    return found


def drawings_of(
    by_concept: Mapping[str, Mapping[str, Item]], known: Sequence[str], new: Sequence[str], styles: int
) -> Selection:
    """The concepts `known` in `styles` styles each, two fifths of them less one, and a drawing of each of `new`."""
    train: list[int] = []
    left_out: list[int] = []
    for at, name in enumerate(known):
        hands = sorted(by_concept[name])[:styles]
        skipped = hands[at % len(hands)] if at % 5 < 2 else None
        for hand in hands:
            (left_out if hand == skipped else train).append(by_concept[name][hand].id)
    unseen = []
    for at, name in enumerate(new):
        hands = sorted(by_concept[name])
        unseen.append(by_concept[name][hands[at % len(hands)]].id)
    return Selection(tuple(train), tuple(sorted(left_out)), tuple(sorted(unseen)))
