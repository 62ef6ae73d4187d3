"""Deleted items by their pictures: what somebody opted out of must not come back unseen under another id.

Looks of deleted items are kept for the sum of shares, in the journal's bundle and through compactions; only erasing
takes them. Compared as a query's picture is (`attributary.pictures.recognise`, `framed`), not as near duplicates are:
the same thing drawn by two houses is no return.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.snapshot import Snapshot
from attributary.bundle.items import LOOK
from attributary.pictures.framed import framed
from attributary.pictures.looks import mirror_image
from attributary.pictures.recognise import Known, Shown

# Levels that what stands out may differ by: one disc in two colours is no copy. Copies were within 16.
_COLOUR = 24


@dataclass(frozen=True, slots=True)
class Gone:
    """Rows of deleted items that nobody has brought back, ascending, and the looks of the last of them.

    Of a bundle's own rows looks may not be known.
    """

    rows: NDArray[np.int64]
    known: Known

    @classmethod
    def of(
        cls, snapshot: Snapshot, built: NDArray[np.int8], added: NDArray[np.int8], creator: int | None = None
    ) -> Gone:
        """`built` and `added`, int8 [N, *LOOK], are looks of the bundle's own rows, or none, and of those behind.

        `creator` is the code of one whose items alone are meant.
        """
        dead = np.zeros(0, np.int64) if snapshot.alive is None else np.flatnonzero(~snapshot.alive)
        rows = dead[~np.isin(dead, snapshot.replaced)]
        if creator is not None:
            rows = rows[snapshot.bundle.items.creator_of_row[rows] == creator]
        split = len(snapshot.bundle.vectors)
        own, behind = rows[rows < split], rows[rows >= split]
        looks = added[behind - split]
        return cls(rows, Known.of(np.concatenate([built[own], looks]) if len(built) else looks))

    @classmethod
    def built(cls, snapshot: Snapshot, creator: int | None = None) -> Gone:
        """`of`, where looks of the bundle's own rows are at hand alone."""
        none, built = np.zeros((0, *LOOK), np.int8), snapshot.bundle.looks
        behind = np.zeros((len(snapshot.added), *LOOK), np.int8)
        return cls.of(snapshot, none if built is None else built, behind, creator)

    def shown(self, pixels: NDArray[np.uint8], seen: NDArray[np.uint8] | None) -> list[int]:
        """Rows of those whose picture this is, uint8 [S, S, 3], or lies within its overview's margins."""
        if not len(self.known.looks):
            return []
        found = Shown(pixels).closest(self.known, colour=_COLOUR)
        if not found.size and seen is not None:
            found = framed(seen, len(pixels), self.known, colour=_COLOUR)
        return self._rows(found)

    def like(self, look: NDArray[np.int8]) -> list[int]:
        """Rows of those whose picture has this look, int8 [*LOOK]: of a picture that is gone itself."""
        return self._rows(Shown.of_look(look).closest(self.known, colour=_COLOUR))

    def mirrored(self, look: NDArray[np.int8]) -> list[int]:
        """Rows of those whose picture is the mirror image, left for right, of one with this look, int8 [*LOOK]."""
        return self.like(mirror_image(look))

    def again(self, looks: NDArray[np.int8]) -> NDArray[np.int64]:
        """Which of some looks, int8 [N, *LOOK], are of one of these pictures; rows ascending."""
        others = Known.of(looks)
        found = [Shown.of_look(look).closest(others, colour=_COLOUR) for look in self.known.looks]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))

    def among(self, rows: Iterable[int]) -> list[int]:
        """Those of some rows that are deleted."""
        # Few of them among many, which are in order.
        wanted = sorted(set(rows))
        places = np.searchsorted(self.rows, np.array(wanted, np.int64)).tolist()
        return [
            row
            for row, at in zip(wanted, places, strict=True)
            if at < len(self.rows) and self.rows[at] == row
        ]

    def _rows(self, found: NDArray[np.int64]) -> list[int]:
        rows: list[int] = self.rows[len(self.rows) - len(self.known.looks) + found].tolist()
        return rows
