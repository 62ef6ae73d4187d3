"""Choosing exemplars: what the subject model never saw, with concepts and creators held out whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from attributary_train.corpus import Corpus, CorpusError, Item
from attributary_train.corpus.item import UNKNOWN_CREATOR
from attributary_train.customization.exemplars import OBJECT, STYLE, Exemplar, refuse_leaks
from attributary_train.customization.manner import describe, nearest
from attributary_train.errors import CustomizationError

# Drawings of a creator that are compared to find a set in one manner.
_LOOKED = 40


@dataclass(frozen=True)
class Counts:
    """How many exemplars of a kind each split gets. Validation exemplars are of unseen concepts or creators."""

    train: int
    validation: int
    seen: int  # test exemplars whose concept or creator has another exemplar in training
    unseen: int

    def __post_init__(self) -> None:
        for name in ("train", "validation", "seen", "unseen"):
            if getattr(self, name) < 0:
                raise CustomizationError(f"counts.{name}", f"{getattr(self, name)}; must not be negative")
        if self.seen > self.train:
            raise CustomizationError(
                "counts.seen", f"{self.seen}; must not exceed the {self.train} in training"
            )


@dataclass(frozen=True)
class Choice:
    """How exemplars are chosen. A house that drew more than `max_creator_share` of the corpus is no style exemplar."""

    objects: Counts = Counts(160, 40, 60, 60)
    styles: Counts = Counts(64, 16, 40, 40)
    style_items: tuple[int, int] = (4, 7)
    max_creator_share: float = 0.06
    seed: int = 0


def choose(corpus: Corpus, known: Iterable[int], choice: Choice) -> list[Exemplar]:
    """Exemplars that the subject model never saw: neither the items `known` nor near duplicates of them.

    One item stands for a near-duplicate group. Creators and concepts that are held out are held out whole: no item of
    a held-out creator is an object of the training split, no item of a held-out concept part of a training style.
    Raises `CustomizationError` if the corpus has too few.
    """
    rng = np.random.default_rng(choice.seed)
    pool = _one_a_group(corpus, set(known), rng)
    styles = _Styles(pool, corpus, choice, rng)
    objects = _objects([item for item in pool if item.creator not in styles.held_out], choice.objects, rng)
    hidden = {corpus.item(o.ids[0]).concept_id for o in objects if o.split != "train" and not o.seen}
    used = {number for o in objects for number in o.ids}
    chosen = [*objects, *styles.choose(used, hidden)]
    refuse_leaks(chosen, corpus)
    return chosen


def _one_a_group(corpus: Corpus, known: set[int], rng: np.random.Generator) -> list[Item]:
    taken = {item.near_dup_group for item in corpus if item.id in known}
    pool = []
    for at in rng.permutation(len(corpus)):
        item = corpus[int(at)]
        if item.near_dup_group not in taken and item.caption.strip():
            taken.add(item.near_dup_group)
            pool.append(item)
    return pool


def _objects(pool: Sequence[Item], counts: Counts, rng: np.random.Generator) -> list[Exemplar]:
    concepts: dict[str, list[Item]] = defaultdict(list)
    for item in pool:
        concepts[item.concept_id].append(item)
    order = [list(concepts)[at] for at in rng.permutation(len(concepts))]
    several = [name for name in order if len(concepts[name]) > 1][: counts.seen]
    single = [name for name in order if name not in set(several)]
    wanted = counts.train - counts.seen + counts.validation + counts.unseen
    if len(several) < counts.seen or len(single) < wanted:
        raise CustomizationError(
            "counts.objects",
            f"{counts.seen} concepts with two drawings and {wanted} others wanted; the corpus has "
            f"{len(several)} and {len(single)} that the model has not seen",
        )
    train = [concepts[name][0] for name in [*several, *single[: counts.train - counts.seen]]]
    rest = single[counts.train - counts.seen :]
    validation = [concepts[name][0] for name in rest[: counts.validation]]
    unseen = [concepts[name][0] for name in rest[counts.validation :][: counts.unseen]]
    parts = [
        ("train", True, train),
        ("validation", False, validation),
        ("test", True, [concepts[name][1] for name in several]),
        ("test", False, unseen),
    ]
    items = [(split, seen, item) for split, seen, part in parts for item in part]
    return [
        Exemplar(f"{OBJECT}-{at:04d}", OBJECT, split, seen, (item.id,), item.caption)
        for at, (split, seen, item) in enumerate(items)
    ]


class _Styles:
    """Creators, divided before objects are chosen, so that a held-out creator is in no training object."""

    def __init__(
        self, pool: Sequence[Item], corpus: Corpus, choice: Choice, rng: np.random.Generator
    ) -> None:
        self._corpus, self._counts, self._sizes, self._rng = corpus, choice.styles, choice.style_items, rng
        self._drawings: dict[str, list[Item]] = defaultdict(list)
        for item in pool:
            # Flags show a country's colours, not a hand.
            if item.creator != UNKNOWN_CREATOR and "flag" not in item.caption.lower():
                self._drawings[item.creator].append(item)
        few, limit = choice.style_items[0], choice.max_creator_share * len(corpus)
        usable = [name for name, own in self._drawings.items() if few <= len(own) <= limit]
        order = [usable[at] for at in rng.permutation(len(usable))]
        # Objects take some drawings of the other creators away: two sets need room to spare.
        room = 2 * choice.style_items[1] + 2
        several = [name for name in order if len(self._drawings[name]) >= room][: self._counts.seen]
        single = [name for name in order if name not in set(several)]
        held = self._counts.validation + self._counts.unseen
        self._held, self._several, self._single = single[:held], several, single[held:]
        if len(several) < self._counts.seen or len(self._held) < held:
            raise CustomizationError(
                "counts.styles",
                f"{self._counts.seen} creators of {room} drawings and {held} others wanted; the corpus has "
                f"{len(several)} and {len(single)}",
            )

    @property
    def held_out(self) -> set[str]:
        """Creators that no training exemplar may be drawn by."""
        return set(self._held)

    def choose(self, used: set[int], hidden: set[str]) -> list[Exemplar]:
        """Sets of drawings, without the items `used` and, in training, without the concepts `hidden`."""
        counts, found = self._counts, []
        free = {
            name: [item for item in own if item.id not in used and item.concept_id not in hidden]
            for name, own in self._drawings.items()
        }
        few = self._sizes[0]
        several = [name for name in self._several if len(free[name]) >= 2 * few]
        extra = [name for name in self._single if len(free[name]) >= few][: counts.train - counts.seen]
        held = [name for name in self._held if len(free[name]) >= few]
        missing = (
            counts.seen - len(several) + counts.train - counts.seen - len(extra) + len(self._held) - len(held)
        )
        if missing:
            raise CustomizationError("counts.styles", f"{missing} creators too few have {few} drawings left")
        for name in [*several, *extra]:
            found.append(("train", True, self._take(free[name]), name))
        for at, name in enumerate(held):
            split = "validation" if at < counts.validation else "test"
            found.append((split, False, self._take(free[name]), name))
        for name in several:
            found.append(("test", True, self._take(free[name]), name))
        return [
            Exemplar(f"{STYLE}-{at:04d}", STYLE, split, seen, ids, name)
            for at, (split, seen, ids, name) in enumerate(found)
        ]

    def _take(self, own: list[Item]) -> tuple[int, ...]:
        """A drawing of a creator and its nearest in manner, taken out of the list."""
        few, most = self._sizes
        size = min(int(self._rng.integers(few, most + 1)), max(few, len(own) // 2))
        looked = own[:_LOOKED]
        rows = np.stack([describe(_picture(self._corpus, item)) for item in looked])
        taken = [looked[at] for at in nearest(rows, 0, size)]
        own[:] = [item for item in own if item not in taken]
        return tuple(item.id for item in taken)


def _picture(corpus: Corpus, item: Item) -> Image.Image:
    try:
        return corpus.image(item.id)
    except CorpusError as error:
        raise CustomizationError(f"style of {item.creator}", str(error)) from error
