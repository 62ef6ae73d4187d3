"""Which items a model in two stages learns: those under study in the second, the rest of the corpus in the first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from attributary_train.corpus import Corpus, Item
from attributary_train.errors import SubjectError
from attributary_train.subject.captions import NO_CATEGORY, Categories
from attributary_train.subject.prompts import BY_CREATOR
from attributary_train.subject.reference import (
    ALL_ITEMS,
    Selection,
    by_concept_and_style,
    drawings_of,
    reference_split,
)

# Signs, letters and flags: a square of 64 pixels does not show which.
_UNREADABLE = frozenset({"symbols", "flags"})


def attribution_selection(
    corpus: Corpus,
    *,
    concepts: int = 200,
    styles: int = 5,
    per_category: tuple[int, int] = (4, 10),
    creators: int = 24,
    per_creator: int = 10,
    unseen: int = 60,
    known: Collection[int] = (),
    seed: int = 0,
) -> Selection:
    """`concepts` in `styles` styles each, two fifths of them without one, from categories that have enough (the least
    and the most of a category: `per_category`); and `per_creator` drawings by each of `creators` single creators, so
    that a creator can be left out. Nothing that shares a concept, a near duplicate or a single creator with the items
    `known`, which a base has learnt already.

    Raises `SubjectError` if the corpus has too few.
    """
    rng = np.random.default_rng(seed)
    kinds = Categories(corpus)
    items = _unrelated(corpus, known)
    by_concept = by_concept_and_style(items)
    kind_of = {
        name: kinds.of(next(iter(hands.values())))
        for name, hands in sorted(by_concept.items())
        if len(hands) >= styles and kinds.group(next(iter(hands.values()))) not in _UNREADABLE
    }
    least, most = per_category
    rich = {kind for kind, number in Counter(kind_of.values()).items() if number >= least}
    full = [name for name, kind in kind_of.items() if kind in rich]
    chosen: list[str] = []
    others: list[str] = []
    count: Counter[str] = Counter()
    for at in rng.permutation(len(full)):
        name = full[at]
        if len(chosen) < concepts and count[kind_of[name]] < most:
            chosen.append(name)
            count[kind_of[name]] += 1
        elif count[kind_of[name]]:
            others.append(name)
    if len(chosen) < concepts or len(others) < unseen:
        raise SubjectError(
            "concepts",
            f"{len(chosen)} and {len(others)} others have {styles} styles; {concepts} and {unseen} are needed; "
            f"{ALL_ITEMS}",
        )
    split = drawings_of(by_concept, chosen, others[:unseen], styles)
    by_creators = _by_creators(items, kinds, creators, per_creator, rng)
    return replace(split, train=tuple(sorted([*split.train, *by_creators])))


def _unrelated(corpus: Corpus, ids: Collection[int]) -> list[Item]:
    """Items that are none of `ids` and share no concept, near duplicate or single creator with one."""
    items = [corpus.item(number) for number in ids]
    groups = {item.near_dup_group for item in items}
    concepts = {item.concept_id for item in items}
    hands = {item.creator for item in items if item.style_set in BY_CREATOR}
    return [
        item
        for item in corpus
        if item.near_dup_group not in groups
        and item.concept_id not in concepts
        and not (item.style_set in BY_CREATOR and item.creator in hands)
    ]


def _by_creators(
    items: Iterable[Item], kinds: Categories, creators: int, each: int, rng: np.random.Generator
) -> list[int]:
    """`each` drawings by `creators` creators who have as many with a category; near duplicates count once."""
    single: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.style_set in BY_CREATOR:
            single[item.creator].append(item)
    able: dict[str, list[int]] = {}
    for name in sorted(single):
        groups = {item.near_dup_group: item.id for item in single[name] if kinds.of(item) != NO_CATEGORY}
        if len(groups) >= each:
            able[name] = sorted(groups.values())
    if len(able) < creators:
        raise SubjectError(
            "creators", f"{len(able)} have {each} drawings; {creators} are needed; {ALL_ITEMS}"
        )
    names = sorted(able)
    out: list[int] = []
    for at in rng.permutation(len(names))[:creators]:
        ids = able[names[at]]
        out += [ids[place] for place in rng.permutation(len(ids))[:each]]
    return out


def rest_selection(corpus: Corpus, selection: Selection) -> Selection:
    """What is left for the first stage: no item of `selection`, no near duplicate of one, no drawing of the same
    concept, and nothing by its single creators."""
    taken = (*selection.train, *selection.recombined, *selection.unseen)
    kept = sorted(item.id for item in _unrelated(corpus, taken))
    return Selection(tuple(kept), selection.recombined, selection.unseen)


def random_selection(corpus: Corpus, *, train: int = 10_000, held_out: int = 120, seed: int = 0) -> Selection:
    """`held_out` items drawn at random, no two near duplicates of each other, and `train` others that are none of
    theirs: a corpus whose concepts have hundreds of items and no hands to tell apart.

    Raises `SubjectError` if the corpus has too few.
    """
    order = np.random.default_rng(seed).permutation(len(corpus))
    out: dict[int, int] = {}
    rest = []
    for at in order.tolist():
        item = corpus[at]
        if item.near_dup_group not in out and len(out) < held_out:
            out[item.near_dup_group] = item.id
        else:
            rest.append(item)
    kept = [item.id for item in rest if item.near_dup_group not in out][:train]
    if len(kept) < train or len(out) < held_out:
        raise SubjectError(
            "items", f"{len(kept)} and {len(out)}; {train} and {held_out} are needed; {ALL_ITEMS}"
        )
    return Selection(tuple(sorted(kept)), tuple(sorted(out.values())))


def select(corpus: Corpus, name: str) -> Selection:
    """The selection that a recipe's `items` names."""
    if name == "random":
        return random_selection(corpus)
    split = reference_split(corpus)
    if name == "reference":
        return split
    # The reference model is what the base goes on from: what it knows cannot be studied.
    chosen = attribution_selection(corpus, known=split.train)
    if name == "attribution":
        return chosen
    if name == "rest":
        return rest_selection(corpus, chosen)
    raise SubjectError("recipe.items", f"{name!r} is unknown")
