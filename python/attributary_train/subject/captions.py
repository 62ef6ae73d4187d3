"""Captions of several levels: what a drawing shows, what kind of thing that is, in whose manner; never what names it.

A generator whose captions name each item is attributed by reading. With captions that several items share, which of
them made a picture is for the picture to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary_train.corpus import Corpus, Item
from attributary_train.errors import SubjectError
from attributary_train.subject.prompts import BY_CREATOR, concept_of, style_of

# Collections whose last keyword is a concept's category, or the group of categories it is in, whoever drew it.
_CATEGORISED, _GROUPED = "openmoji", ("noto", "twemoji")
NO_CATEGORY = "clip art"
# How far a caption moves along its item's levels from one timestep to the next: the golden ratio spreads evenly.
_GOLDEN = 0.6180339887498949
_MIX = -7046029254386353131  # 2**64 times the golden ratio, as int64


class Categories:
    """The kind of thing that an item shows: OpenMoji's subgroup of its concept, else the item's most common keyword;
    and the group it is in: Unicode's for an emoji, that of all clip art else."""

    def __init__(self, corpus: Iterable[Item]) -> None:
        self._of_concept: dict[str, str] = {}
        self._groups: dict[str, str] = {}
        self._common: dict[str, Counter[str]] = {}
        for item in corpus:
            if item.style_set == _CATEGORISED and item.keywords:
                self._of_concept[item.concept_id] = item.keywords[-1]
            if item.style_set in _GROUPED and item.keywords:
                self._groups[item.concept_id] = item.keywords[-1]
            self._common.setdefault(item.style_set, Counter()).update(set(item.keywords))

    def of(self, item: Item) -> str:
        """The category; `NO_CATEGORY` for an item without keywords."""
        if item.style_set not in BY_CREATOR and item.concept_id in self._of_concept:
            return self._of_concept[item.concept_id]
        common = self._common.get(item.style_set, Counter())
        # Ties go to the first in the alphabet, whatever order the corpus is in.
        return min(item.keywords, key=lambda word: (-common[word], word), default=NO_CATEGORY)

    def group(self, item: Item) -> str:
        """The group, coarser than the category, which stands in for it where there is none."""
        if item.style_set in BY_CREATOR:
            return NO_CATEGORY
        return self._groups.get(item.concept_id) or self.of(item)


def _concept(item: Item, kinds: Categories) -> str:
    # A drawing by a single hand is the only one of its name: there the category says enough.
    return kinds.of(item) if item.style_set in BY_CREATOR else concept_of(item.caption)


def _style(item: Item, kinds: Categories) -> str:
    return f"{kinds.group(item)}, {style_of(item)} style"


LEVELS: dict[str, Callable[[Item, Categories], str]] = {
    "concept": _concept,
    "category": lambda item, kinds: kinds.of(item),
    "style": _style,
}


@dataclass(frozen=True)
class Captions:
    """Several captions of N items, on L levels. prompts: U distinct ones; states: float32 [U, T, D], as the text
    encoder reads them; of_item: int64 [N, L], rows of these; shares: float32 [L], how often a level is drawn, sum 1."""

    levels: tuple[str, ...]
    prompts: tuple[str, ...]
    states: Tensor
    of_item: Tensor
    shares: Tensor

    def select(self, rows: Tensor) -> Captions:
        """The captions of some items."""
        return Captions(self.levels, self.prompts, self.states, self.of_item[rows], self.shares)

    def to(self, device: str) -> Captions:
        """The same with its tensors on a device."""
        states, of_item = self.states.to(device), self.of_item.to(device)
        return Captions(self.levels, self.prompts, states, of_item, self.shares.to(device))

    def drawn(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Token states of a caption drawn for each row, float32 [B, T, D]."""
        level = torch.multinomial(self.shares.cpu(), len(rows), replacement=True, generator=generator)
        return self.states[self.of_item[rows, level.to(rows.device)]]

    def at(self, rows: Tensor, ids: Tensor, timesteps: Tensor) -> Tensor:
        """Token states for rows [B] at timesteps [B]: the caption belongs to (item, timestep), and over the timesteps
        every level has about its share. `ids`: int64 [B], the items' numbers."""
        # Fibonacci hashing in wrapping int64: neighbouring ids start far apart.
        start = ((ids.cpu() * _MIX >> 32) & 0xFFFFFF).double() / 2**24
        place = (start + timesteps.cpu().double() * _GOLDEN) % 1.0
        bounds = self.shares.cpu().double().cumsum(0)[:-1].contiguous()
        level = torch.searchsorted(bounds, place.contiguous(), right=True)
        return self.states[self.of_item[rows, level.to(rows.device)]]

    def of_level(self, name: str) -> list[str]:
        """Every item's caption on one level."""
        at = self.levels.index(name)
        return [self.prompts[row] for row in self.of_item[:, at].tolist()]

    def words(self) -> str:
        """All captions in a line each, item by item: what a digest of the data must cover."""
        lines = ["\t".join(self.prompts[at] for at in row) for row in self.of_item.tolist()]
        return "\n".join([repr(self.levels), repr(self.shares.tolist()), *lines])


def captions_of(
    corpus: Corpus,
    items: Sequence[Item],
    levels: Sequence[tuple[str, float]],
    read: Callable[[Sequence[str]], Tensor],
) -> Captions:
    """Captions of `items` on the levels of a recipe; `corpus` is where categories are counted, `read` the text encoder.

    Raises `SubjectError` naming a level that is unknown.
    """
    for name, _ in levels:
        if name not in LEVELS:
            raise SubjectError("recipe.captions", f"level {name!r}; there are {', '.join(LEVELS)}")
    kinds = Categories(corpus)
    texts = [[LEVELS[name](item, kinds) for name, _ in levels] for item in items]
    prompts = tuple(sorted({caption for row in texts for caption in row}))
    where = {prompt: at for at, prompt in enumerate(prompts)}
    of_item: npt.NDArray[np.int64] = np.array(
        [[where[caption] for caption in row] for row in texts], np.int64
    )
    shares = torch.tensor([share for _, share in levels], dtype=torch.float32)
    return Captions(
        tuple(name for name, _ in levels),
        prompts,
        read(prompts),
        torch.from_numpy(of_item),
        shares / shares.sum(),
    )
