"""The rule, once: from candidates to answers. Every engine calls this; where the candidates come from is its business.

Shares are over the R candidates that the whole bundle gives a query, whatever is filtered out, was deleted or is asked
for beside it: so an answer depends on its query and the bundle alone, and hiding an item raises nobody's share. What
is hidden is told as the withheld share. The formula is in `attributary.kernels.rescore`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from attributary import kernels
from attributary.bundle.manifest import Calibration
from attributary.kernels import reply_writer as reply_writer

from .own_pictures import factors, is_bare, put_first
from .pixel_statistics import pixel_statistics
from .snapshot import Candidates, Snapshot
from .snapshot import calibration_of as calibration_of
from .types import AttributedItem, Attribution, CreatorShare, Filter, Prepared, Timings

_FLOOR, _OOD = (kernels.CALIBRATION.index(name) for name in ("floor", "foreign_below"))


@dataclass(slots=True)
class Scored:
    """An answer in numbers: visible items, best first, and the row of the kernel's answer that has the rest."""

    snapshot: Snapshot
    prepared: Prepared
    scored: kernels.Rescored
    row: int
    items: NDArray[np.int64]  # [k] rows of the bundle
    similarity: NDArray[np.float32]  # [k]
    share: NDArray[np.float32]  # [k]
    flagged: bool

    @property
    def timings(self) -> Timings:
        """Of the query."""
        return self.prepared.timings

    @property
    def unjudged(self) -> bool:
        """Whether the flag needs pixels, and there were none."""
        return not self.flagged and _blind(self.snapshot, self.prepared)

    def ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Low and high of each creator's share, float64 [c]; None where the bundle does not say."""
        calibration = self.snapshot.bundle.manifest.calibration.of(self.prepared.has_prompt)
        ends = calibration.between(self.scored.creator_share[self.row])
        if ends is None:
            return None
        # As replies and tables have them: a receipt with more digits would be of another answer.
        low, high = (end.astype(np.float32).astype(np.float64) for end in ends)
        return low, high

    def attribution(self) -> Attribution:
        """The same in words: ids, captions, creators' names."""
        items, scored, row = self.snapshot.bundle.items, self.scored, self.row
        return Attribution(
            items=tuple(
                AttributedItem(facts[0], rank, similarity, share, *facts[1:])
                for rank, (facts, similarity, share) in enumerate(
                    zip(
                        map(items.facts, self.items.tolist()),
                        self.similarity.tolist(),
                        self.share.tolist(),
                        strict=True,
                    ),
                    1,
                )
            ),
            creators=tuple(
                CreatorShare(
                    items.creator_names[code],
                    total,
                    count,
                    low,
                    high,
                    items.ids_of(items.creator_names[code]),
                )
                for code, total, count, (low, high) in zip(
                    scored.creators[row, : self.prepared.top_creators].tolist(),
                    scored.creator_share[row].tolist(),
                    scored.creator_items[row].tolist(),
                    _pairs(self.ends()),
                    strict=False,
                )
                if code >= 0
            ),
            diffuse_share=float(scored.diffuse[row]),
            withheld_share=float(scored.withheld[row]),
            out_of_distribution=self.flagged,
            revision=self.snapshot.revision,
            timings=self.timings,
            picture=self.prepared.picture,
            unjudged=self.unjudged,
            has_prompt=self.prepared.has_prompt,
        )


class Scores:
    """The answers of a batch in the making: `short`, then `fill` for each entry of it, then `scored` or `answers`."""

    def __init__(
        self,
        snapshot: Snapshot,
        batch: Sequence[Prepared],
        candidates: Candidates,
        embeddings: NDArray[np.float32] | None = None,
    ) -> None:
        """Score `candidates` of the whole snapshot; `embeddings`, float32 [B, D], where they hold no similarities."""
        self._snapshot = snapshot
        self._batch = batch
        self._found: list[Scored] = [None] * len(batch)  # type: ignore[list-item]
        self._short: dict[Filter, list[int]] = {}
        # What the similarities of an embedding that is too near are multiplied by, by its place.
        self._factors: dict[int, np.float32] = {}
        filter_ = batch[0].filter
        plain = not any(one.showing.size or is_bare(snapshot, one) for one in batch)
        if plain and all(one.filter == filter_ for one in batch):
            self._score(filter_, range(len(batch)), candidates, embeddings)
            return
        groups: dict[tuple[Filter, bool, bool], list[int]] = defaultdict(list)
        for place, one in enumerate(batch):
            groups[one.filter, one.showing.size > 0, is_bare(snapshot, one)].append(place)
        for (filter_, _, _), places in groups.items():
            part = None if embeddings is None else embeddings[places]
            self._score(filter_, places, candidates.take(places), part)

    @property
    def short(self) -> Mapping[Filter, list[int]]:
        """Places in the batch that have fewer items than asked for, although more pass their filter."""
        return self._short

    def fill(self, places: Sequence[int], candidates: Candidates) -> None:
        """Add what a search among the items that pass has found, [len(places), n] with similarities.

        They were no candidates of the whole, so their share is 0. What does not pass is left out, whatever an index
        elsewhere took for it.
        """
        assert candidates.similarity is not None
        visible = self._snapshot.visible(self._batch[places[0]].filter)
        for number, place in enumerate(places):
            found = self._found[place]
            new = (candidates.rows[number] >= 0) & ~np.isin(candidates.rows[number], found.items)
            if visible is not None:
                new[new] = visible.passes(candidates.rows[number][new])
            rows = np.append(found.items, candidates.rows[number][new])
            near = candidates.similarity[number][new] * self._factors.get(place, np.float32(1.0))
            similarity = np.append(found.similarity, near)
            order = np.lexsort((rows, -similarity))[: self._batch[place].top_k]
            share = np.append(found.share, np.zeros(int(new.sum()), np.float32))
            found.items, found.similarity, found.share = rows[order], similarity[order], share[order]

    def scored(self) -> list[Scored]:
        """One answer a query, in numbers, in their order."""
        return self._found

    def answers(self) -> list[Attribution]:
        """The same in words."""
        return [found.attribution() for found in self._found]

    def _score(
        self,
        filter_: Filter,
        places: Sequence[int],
        candidates: Candidates,
        embeddings: NDArray[np.float32] | None,
    ) -> None:
        snapshot = self._snapshot
        members = [self._batch[place] for place in places]
        visible = snapshot.visible(filter_)
        calibration = _calibrated(snapshot.bundle.manifest.calibration, members, snapshot.calibrations)
        if members[0].showing.size:
            # Of a group all or none are pictures of items.
            candidates = put_first(snapshot, members, candidates, embeddings, calibration)
        elif is_bare(snapshot, members[0]):
            candidates = self._held_back(places, members, candidates, embeddings)
        scored = snapshot.score(
            candidates,
            embeddings,
            calibration,
            None if visible is None else visible.bitmap,
            top_k=max(member.top_k for member in members),
            top_creators=max(member.top_creators for member in members),
        )
        # As the kernel compares them.
        flagged = (scored.peak < calibration[:, _OOD]).tolist()
        passing = len(snapshot.bundle.items) if visible is None else visible.count
        for row, (place, member) in enumerate(zip(places, members, strict=True)):
            rows, count = scored.rows[row], member.top_k
            if rows[count - 1] < 0:
                count = int((rows[:count] >= 0).sum())
            self._found[place] = Scored(
                snapshot,
                member,
                scored,
                row,
                rows[:count],
                scored.similarity[row, :count],
                scored.share[row, :count],
                flagged[row],
            )
            if count < min(member.top_k, passing):
                self._short.setdefault(filter_, []).append(place)

    def _held_back(
        self,
        places: Sequence[int],
        members: Sequence[Prepared],
        candidates: Candidates,
        embeddings: NDArray[np.float32] | None,
    ) -> Candidates:
        if candidates.similarity is None:
            assert embeddings is not None
            candidates = self._snapshot.ranked(embeddings, candidates.rows)
        assert candidates.similarity is not None
        less = factors(self._snapshot, members, candidates)
        self._factors |= dict(zip(places, less, strict=True))
        return Candidates(candidates.rows, candidates.similarity * less[:, None])


def _calibrated(
    calibration: Calibration, members: Sequence[Prepared], plain: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """As `calibration_of`, with what a query's pixels say: how much of an answer is nobody's, whatever it resembles.

    Where they are not the generator's, no similarity is high enough. `plain` is what `calibration_of` says of queries
    without a prompt and with one, where it is at hand.
    """
    if plain is None:
        plain = calibration_of(calibration, (False, True))
    made: NDArray[np.float32] = plain[[int(member.has_prompt) for member in members]]
    if not calibration.pixels and all(member.certainty is None for member in members):
        return made
    floor = 1.0 - (1.0 - made[:, _FLOOR]) * certainties(calibration, members)
    foreign = floor.astype(np.float32) >= 1.0
    made[:, _FLOOR] = np.where(foreign, 0.0, floor)
    made[:, _OOD] = np.where(foreign, np.inf, made[:, _OOD])
    return made


def certainties(calibration: Calibration, members: Sequence[Prepared]) -> NDArray[np.float64]:
    """The part of each answer that its items may have by its picture's pixels, float64 [B].

    What a query says itself holds; of an embedding without it, and of a picture that is recognised as an item's own, it
    is all.
    """
    found = np.array([1.0 if member.certainty is None else member.certainty for member in members])
    pictured = [
        place
        for place, member in enumerate(members)
        if member.pixels is not None and member.certainty is None and not member.showing.size
    ]
    if calibration.pixels and pictured:
        statistics = pixel_statistics(np.stack([np.asarray(members[place].pixels) for place in pictured]))
        found[pictured] = calibration.pixels.certainty(statistics)
    return found


def _blind(snapshot: Snapshot, prepared: Prepared) -> bool:
    """Whether the bundle judges pictures by pixels that this query does not have."""
    unknown = prepared.pixels is None and prepared.certainty is None
    return unknown and bool(snapshot.bundle.manifest.calibration.pixels)


def _pairs(
    ends: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
) -> Iterable[tuple[float | None, float | None]]:
    return repeat((None, None)) if ends is None else zip(*(end.tolist() for end in ends), strict=True)
