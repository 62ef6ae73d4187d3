"""Which items of the built-in corpus the reference model learns, and which it is later asked about without having."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from attributary_train.corpus import Corpus, Item
from attributary_train.errors import SubjectError
from attributary_train.subject.prompts import BY_CREATOR

# What to do with a corpus that is not the built-in one.
ALL_ITEMS = "train on a corpus of your own with --all-items"


@dataclass(frozen=True)
class ReferenceSplit:
    """Ids: `train` is what the model sees; `recombined` are left-out drawings of a known concept in a known style;
    `unseen` are drawings of concepts that it never saw."""

    train: tuple[int, ...]
    recombined: tuple[int, ...]
    unseen: tuple[int, ...]


def reference_split(
    corpus: Corpus,
    *,
    concepts: int = 200,
    styles: int = 5,
    drawings: int = 100,
    unseen: int = 100,
    seed: int = 0,
) -> ReferenceSplit:
    """Choose `concepts` in `styles` styles each, two fifths of them without one, and `drawings` by single creators.

    A concept drawn by several hands is what makes attribution hard enough to be worth measuring: the caption fits
    all of them, the picture only some. The number of items stays small because every label costs a pass over them.
    Raises `SubjectError` if the corpus has too few such concepts.
    """
    rng = np.random.default_rng(seed)
    by_concept: dict[str, dict[str, Item]] = defaultdict(dict)
    single: list[Item] = []
    for item in corpus:
        if item.style_set in BY_CREATOR:
            single.append(item)
        else:
            by_concept[item.concept_id].setdefault(item.style_set, item)
    full = sorted(name for name, hands in by_concept.items() if len(hands) >= styles)
    if len(full) < concepts + unseen:
        raise SubjectError(
            "concepts",
            f"{len(full)} concepts have {styles} styles; {concepts} + {unseen} are needed for the reference selection; "
            f"{ALL_ITEMS}",
        )
    order = [full[at] for at in rng.permutation(len(full))]
    train: list[int] = []
    left_out: list[int] = []
    for at, name in enumerate(order[:concepts]):
        hands = sorted(by_concept[name])[:styles]
        skipped = hands[at % len(hands)] if at % 5 < 2 else None
        for hand in hands:
            (left_out if hand == skipped else train).append(by_concept[name][hand].id)
    new = []
    for at, name in enumerate(order[concepts : concepts + unseen]):
        hands = sorted(by_concept[name])
        new.append(by_concept[name][hands[at % len(hands)]].id)
    chosen = rng.permutation(len(single))[:drawings]
    train.extend(single[at].id for at in chosen)
    return ReferenceSplit(tuple(sorted(train)), tuple(sorted(left_out)), tuple(sorted(new)))
