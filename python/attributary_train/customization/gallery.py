"""A made data set beside its distractors: what is asked, and among what it is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attributary_train.corpus import Corpus
from attributary_train.customization.exemplars import Exemplar, refuse_leaks
from attributary_train.customization.maker import known_items
from attributary_train.customization.maker_worker import failure
from attributary_train.customization.plan import Plan
from attributary_train.customization.rows import square
from attributary_train.customization.shards import Pictures, read_shard
from attributary_train.customization.spaces.base import Features, Space, embed
from attributary_train.errors import CustomizationError
from attributary_train.subject.checkpoint import load_autoencoder, load_subject
from attributary_train.subject.pictures import corpus_digest

MIN_DISTRACTORS = 5000
_SEED = 11


@dataclass(frozen=True)
class Gallery:
    """Queries are generated pictures, row q of exemplar `whose[q]`. Items are the exemplars' and the distractors'.

    `exemplar_rows`: rows of an exemplar's items; `distractor_rows`: int64 [N]; `creators`, `licences`: of
    every item; a distractor by the very creator that a style was learned from does not compete.
    """

    digest: str  # SHA-256 of the plan's facts, hexadecimal
    exemplars: tuple[Exemplar, ...]
    pictures: Pictures  # [Q, S, S, 3]
    untuned: Pictures  # [Q, S, S, 3], what the subject draws without tuning
    prompts: tuple[str, ...]
    whose: npt.NDArray[np.int64]  # [Q]
    ids: npt.NDArray[np.int64]  # [I]
    item_pictures: Pictures  # [I, S, S, 3]
    captions: tuple[str, ...]
    creators: tuple[str, ...]
    licences: tuple[str, ...]
    exemplar_rows: tuple[npt.NDArray[np.int64], ...]
    distractor_rows: npt.NDArray[np.int64]

    def rows(self, split: str, kind: str | None = None, seen: bool | None = None) -> npt.NDArray[np.int64]:
        """Queries of a split, of a kind, of seen or unseen concepts or creators, int64 [q]."""
        wanted = [
            at
            for at, e in enumerate(self.exemplars)
            if e.split == split and kind in (None, e.kind) and seen in (None, e.seen)
        ]
        return np.flatnonzero(np.isin(self.whose, wanted))

    def rivals(self, exemplar: int) -> npt.NDArray[np.bool_]:
        """Which distractors compete, bool [N]: for a style, none by the same creator, whose hand is the same."""
        if self.exemplars[exemplar].kind != "style":
            return np.ones(len(self.distractor_rows), bool)
        own = self.exemplars[exemplar].label
        return np.array([self.creators[row] != own for row in self.distractor_rows])


@dataclass(frozen=True)
class Embedded:
    """A gallery in one space, rows of unit length: queries float32 [Q, D], items float32 [I, D]."""

    queries: Features
    items: Features


def open_gallery(folder: Path, distractors: int = MIN_DISTRACTORS) -> Gallery:
    """Read a data set and choose its distractors: the subject's training items, then others drawn at random.

    No distractor is a near duplicate of an exemplar. Raises `CustomizationError` if the data set is not finished, if
    its corpus or model has changed, if exemplars leak between splits, or if the corpus has too few items.
    """
    plan = Plan.read(folder)
    corpus, model = Corpus.open(plan.paths["corpus"]), load_subject(Path(plan.paths["subject"]))
    if corpus_digest(corpus) != plan.corpus:
        raise CustomizationError(plan.paths["corpus"], "is another corpus than the data set was made with")
    if model.weights != plan.weights:
        raise CustomizationError(plan.paths["subject"], "is another model than the data set was made with")
    made = [entry for entry in plan.planned if failure(folder, entry.name) is None]
    missing = [entry.name for entry in made if not plan.shard(folder, entry).exists()]
    if missing:
        raise CustomizationError(
            str(folder), f"{len(missing)} exemplars are not made yet; run abc make again"
        )
    exemplars = tuple(entry.exemplar for entry in made)
    refuse_leaks(exemplars, corpus)
    shards = [read_shard(plan.shard(folder, entry), entry) for entry in made]
    own = list(dict.fromkeys(number for exemplar in exemplars for number in exemplar.ids))
    others = _distractors(corpus, known_items(model, corpus), own, distractors)
    ids = [*own, *others]
    place = {number: row for row, number in enumerate(ids)}
    size = int(load_autoencoder(Path(plan.paths["subject"])).config.sample_size)
    items = [corpus.item(number) for number in ids]
    return Gallery(
        plan.digest(),
        exemplars,
        np.concatenate([shard.tuned for shard in shards]),
        np.concatenate([shard.untuned for shard in shards]),
        tuple(prompt for entry in made for prompt in entry.prompts),
        np.repeat(np.arange(len(made)), [len(entry.prompts) for entry in made]),
        np.array(ids, np.int64),
        np.stack([square(corpus, number, size, f"item {number}") for number in ids]),
        tuple(item.caption for item in items),
        tuple(item.creator for item in items),
        tuple(item.licence_spdx for item in items),
        tuple(np.array([place[number] for number in exemplar.ids]) for exemplar in exemplars),
        np.arange(len(own), len(ids)),
    )


def _distractors(corpus: Corpus, known: Sequence[int], own: Sequence[int], count: int) -> list[int]:
    taken = {corpus.item(number).near_dup_group for number in own}
    trained = [number for number in known if corpus.item(number).near_dup_group not in taken]
    first = set(trained)
    order = np.random.default_rng(_SEED).permutation(len(corpus))
    rest = [
        corpus[int(row)].id
        for row in order
        if corpus[int(row)].near_dup_group not in taken and corpus[int(row)].id not in first
    ]
    if len(trained) + len(rest) < count:
        raise CustomizationError("distractors", f"{count} wanted; the corpus has {len(trained) + len(rest)}")
    return [*trained, *rest[: max(0, count - len(trained))]]


def embed_gallery(gallery: Gallery, space: Space, cache: Path | None) -> Embedded:
    """Every query and item through a space; prompts and captions where it reads them."""
    return Embedded(
        embed(space, gallery.pictures, gallery.prompts, cache),
        embed(space, gallery.item_pictures, gallery.captions, cache),
    )
