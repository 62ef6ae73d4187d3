"""Which items to delete: by id, creator, licence or source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.view import View
from attributary.errors import InvalidArgumentError

MAX_IDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Selection:
    """Exactly one of four: `ids`, a `creator`, a `licence`, or a `source`, with which an item's uri begins."""

    ids: tuple[int, ...] = ()
    creator: str = ""
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        given = [name for name in ("ids", "creator", "licence", "source") if getattr(self, name)]
        if len(given) != 1:
            raise InvalidArgumentError(
                "selection",
                f"exactly one of ids, creator, licence, source must be given, got {', '.join(given) or 'none'}",
            )
        if len(self.ids) > MAX_IDS:
            raise InvalidArgumentError(
                "selection.ids", f"must hold at most {MAX_IDS} ids, got {len(self.ids)}"
            )

    def __str__(self) -> str:
        """As the audit has it; ids speak for themselves."""
        return next(
            (
                f"{name}={value}"
                for name in ("creator", "licence", "source")
                if (value := getattr(self, name))
            ),
            "",
        )

    def rows(self, view: View) -> NDArray[np.int64]:
        """Rows of the chosen items that are still there, ascending, int64."""
        items = view.bundle.items
        if self.ids:
            found = {items.row_of(item_id) for item_id in self.ids}
            rows = np.array(sorted(row for row in found if row is not None), np.int64)
        elif self.source:
            rows = items.rows_from(self.source)
        else:
            codes, of_row = (
                (items.creator_codes, items.creator_of_row)
                if self.creator
                else (items.licence_codes, items.licence_of_row)
            )
            rows = np.flatnonzero(of_row == codes.get(self.creator or self.licence, -1)).astype(np.int64)
        return rows if view.alive is None else rows[view.alive[rows]]
