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
from attributary.bundle.manifest import Calibration, ShareCalibration

from .pixel_statistics import pixel_statistics
from .recognised import put_first
from .snapshot import Candidates, Snapshot
from .types import AttributedItem, Attribution, CreatorShare, Filter, Prepared

_FLOOR, _OOD = (kernels.CALIBRATION.index(name) for name in ("floor", "foreign_below"))


@dataclass(slots=True)
class _Found:
    """What is known of one query: its visible items, best first, and the row of the kernel's answer."""

    scored: kernels.Rescored
    row: int
    items: NDArray[np.int64]  # [k] rows of the bundle
    similarity: NDArray[np.float32]  # [k]
    share: NDArray[np.float32]  # [k]
    flagged: bool


class Scores:
    """The answers of a batch in the making: `short`, then `fill` for each entry of it, then `answers`."""

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
        self._found: list[_Found] = [None] * len(batch)  # type: ignore[list-item]
        self._short: dict[Filter, list[int]] = {}
        groups: dict[tuple[Filter, bool], list[int]] = defaultdict(list)
        for place, prepared in enumerate(batch):
            groups[prepared.filter, prepared.showing.size > 0].append(place)
        for (filter_, _), places in groups.items():
            whole = len(groups) == 1
            self._score(
                filter_,
                places,
                candidates if whole else candidates.take(places),
                embeddings if whole or embeddings is None else embeddings[places],
            )

    @property
    def short(self) -> Mapping[Filter, list[int]]:
        """Places in the batch that have fewer items than asked for, although more pass their filter."""
        return self._short

    def fill(self, places: Sequence[int], candidates: Candidates) -> None:
        """Add what a search among the items that pass has found, [len(places), n] with similarities.

        They were no candidates of the whole, so their share is 0.
        """
        assert candidates.similarity is not None
        for number, place in enumerate(places):
            found = self._found[place]
            new = (candidates.rows[number] >= 0) & ~np.isin(candidates.rows[number], found.items)
            rows = np.append(found.items, candidates.rows[number][new])
            similarity = np.append(found.similarity, candidates.similarity[number][new])
            order = np.lexsort((rows, -similarity))[: self._batch[place].top_k]
            share = np.append(found.share, np.zeros(int(new.sum()), np.float32))
            found.items, found.similarity, found.share = rows[order], similarity[order], share[order]

    def answers(self) -> list[Attribution]:
        """One answer a query, in their order."""
        return [
            _answer(self._snapshot, prepared, found)
            for prepared, found in zip(self._batch, self._found, strict=True)
        ]

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
        calibration = _calibrated(snapshot.bundle.manifest.calibration, members)
        if members[0].showing.size:
            # Of a group all or none are pictures of items.
            candidates = put_first(snapshot, members, candidates, embeddings, calibration)
        scored = snapshot.score(
            candidates,
            embeddings,
            calibration,
            None if visible is None else visible.bitmap,
            top_k=max(member.top_k for member in members),
            top_creators=max(member.top_creators for member in members),
        )
        # As the kernel compares them.
        flagged = scored.peak < calibration[:, _OOD]
        passing = len(snapshot.bundle.items) if visible is None else visible.count
        found = (scored.rows >= 0).sum(axis=1).tolist()
        for row, (place, member) in enumerate(zip(places, members, strict=True)):
            count = min(member.top_k, found[row])
            self._found[place] = _Found(
                scored,
                row,
                scored.rows[row, :count],
                scored.similarity[row, :count],
                scored.share[row, :count],
                bool(flagged[row]),
            )
            if count < min(member.top_k, passing):
                self._short.setdefault(filter_, []).append(place)


def calibration_of(calibration: Calibration, has_prompt: Sequence[bool]) -> NDArray[np.float32]:
    """The kernels' calibration of each query, float32 [Q, 9] (`attributary.kernels.types.CALIBRATION`)."""
    return np.array(
        [
            (
                shares.temperature,
                shares.threshold,
                shares.background,
                shares.diffuse_floor,
                shares.ood_similarity,
                shares.ood_margin,
                shares.reach,
                shares.reach_cut,
                shares.reach_null,
            )
            for shares in map(calibration.of, has_prompt)
        ],
        np.float32,
    ).reshape(-1, len(kernels.CALIBRATION))


def _calibrated(calibration: Calibration, members: Sequence[Prepared]) -> NDArray[np.float32]:
    """As `calibration_of`, with what a query's pixels say: how much of an answer is nobody's, whatever it resembles.

    Where they are not the generator's, no similarity is high enough.
    """
    made = calibration_of(calibration, [member.has_prompt for member in members])
    if not calibration.pixels:
        return made
    floor = 1.0 - (1.0 - made[:, _FLOOR]) * certainties(calibration, members)
    foreign = floor.astype(np.float32) >= 1.0
    made[:, _FLOOR] = np.where(foreign, 0.0, floor)
    made[:, _OOD] = np.where(foreign, np.inf, made[:, _OOD])
    return made


def certainties(calibration: Calibration, members: Sequence[Prepared]) -> NDArray[np.float64]:
    """The part of each answer that its items may have by its picture's pixels, float64 [B].

    Of an embedding it is what came with it, or all; of a picture that is recognised as an item's own it is all.
    """
    found = np.array([1.0 if member.certainty is None else member.certainty for member in members])
    pictured = [
        place for place, member in enumerate(members) if member.pixels is not None and not member.showing.size
    ]
    if calibration.pixels and pictured:
        statistics = pixel_statistics(np.stack([np.asarray(members[place].pixels) for place in pictured]))
        found[pictured] = calibration.pixels.certainty(statistics)
    return found


def _answer(snapshot: Snapshot, prepared: Prepared, found: _Found) -> Attribution:
    """From codes and rows to words: ids, captions, creators' names."""
    items, scored, row = snapshot.bundle.items, found.scored, found.row
    calibration = snapshot.bundle.manifest.calibration.of(prepared.has_prompt)
    return Attribution(
        items=tuple(
            AttributedItem(facts[0], rank, similarity, share, *facts[1:])
            for rank, (facts, similarity, share) in enumerate(
                zip(
                    map(items.facts, found.items.tolist()),
                    found.similarity.tolist(),
                    found.share.tolist(),
                    strict=True,
                ),
                1,
            )
        ),
        creators=tuple(
            CreatorShare(
                items.creator_names[code], total, count, low, high, items.ids_of(items.creator_names[code])
            )
            for code, total, count, (low, high) in zip(
                scored.creators[row, : prepared.top_creators].tolist(),
                scored.creator_share[row].tolist(),
                scored.creator_items[row].tolist(),
                _ends(calibration, scored.creator_share[row]),
                strict=False,
            )
            if code >= 0
        ),
        diffuse_share=float(scored.diffuse[row]),
        withheld_share=float(scored.withheld[row]),
        out_of_distribution=found.flagged,
        revision=snapshot.revision,
        timings=prepared.timings,
        picture=prepared.picture,
        unjudged=not found.flagged and _blind(snapshot, prepared),
    )


def _blind(snapshot: Snapshot, prepared: Prepared) -> bool:
    """Whether the bundle judges pictures by pixels that this query does not have."""
    unknown = prepared.pixels is None and prepared.certainty is None
    return unknown and bool(snapshot.bundle.manifest.calibration.pixels)


def _ends(
    calibration: ShareCalibration, shares: NDArray[np.float32]
) -> Iterable[tuple[float | None, float | None]]:
    """Low and high of each creator's share; None of each where the bundle does not say."""
    found = calibration.between(shares)
    return repeat((None, None)) if found is None else zip(*(end.tolist() for end in found), strict=True)
