"""Which items to delete: by id, creator, licence or source."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.names import words
from attributary.attribution.snapshot import Snapshot
from attributary.bundle.items import ItemRecord, ItemTable
from attributary.bundle.names import same_name
from attributary.errors import InvalidArgumentError

MAX_IDS = 1_000_000
# Of a large bundle's ids and uris, and names that are compared letter by letter: a hint need not be complete.
_LOOKED_AT, _COMPARED = 100_000, 20_000


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
        for name in ("creator", "licence"):
            object.__setattr__(self, name, same_name(getattr(self, name)))

    def __str__(self) -> str:
        """As the audit has it; ids speak for themselves."""
        given = ((name, getattr(self, name)) for name in ("creator", "licence", "source"))
        return next((f"{name}={value}" for name, value in given if value), "")

    def chooses(self, item: ItemRecord) -> bool:
        """Whether an item is one of the chosen."""
        if self.ids:
            return item.id in self.ids
        if self.source:
            return item.uri.startswith(self._sources)
        if self.creator:
            return item.creator == self.creator
        return item.licence == self.licence

    def rows(self, snapshot: Snapshot) -> NDArray[np.int64]:
        """Rows of the chosen items that are still there, ascending, int64."""
        items = snapshot.bundle.items
        if self.ids:
            found = {items.row_of(item_id) for item_id in self.ids}
            rows = np.array(sorted(row for row in found if row is not None), np.int64)
        elif self.source:
            rows = self._rows_from(items)
        elif self.creator:
            rows = _rows_of(items.creator_of_row, items.creator_codes.code(self.creator))
        else:
            rows = _rows_of(items.licence_of_row, items.licence_codes.code(self.licence))
        return rows if snapshot.alive is None else rows[snapshot.alive[rows]]

    def check_known(self, snapshot: Snapshot) -> None:
        """Raise InvalidArgumentError, with what comes near, if this chooses nothing that is or was in a snapshot.

        A deletion that misses by a capital letter must not pass for one that was done.
        """
        items = snapshot.bundle.items
        if self.ids:
            if any(number in snapshot.deleted or items.row_of(number) is not None for number in self.ids):
                return
            numbers = (str(items.id_of(row)) for row in range(min(len(items), _LOOKED_AT)))
            self._refuse("ids", f"no item {', '.join(map(str, self.ids[:5]))}", str(self.ids[0]), numbers)
        elif self.source:
            if not self._rows_from(items).size:
                uris = (items.uri(row) for row in range(min(len(items), _LOOKED_AT)))
                self._refuse("source", f"no uri begins with {self.source!r}", self.source, _beginnings(uris))
        else:
            what, _, name = str(self).partition("=")
            known = items.creator_names if self.creator else items.licence_names
            former = snapshot.filters.former  # of whom a compaction has left nothing
            if name not in known and name not in (former.creators if self.creator else former.licences):
                self._refuse(what, f"no item has the {what} {name!r}", name, known)

    def similar(self, snapshot: Snapshot) -> tuple[str, ...]:
        """Names that have items and may be the chosen one's too: but for capitals, accents, punctuation; by identifier.

        Whether they are is not for a program to say: whoever deletes is told.
        """
        items, filters, chosen = snapshot.bundle.items, snapshot.filters, self.creator or self.licence
        if not chosen:
            return ()
        names = items.creator_names if self.creator else items.licence_names
        counts = filters.creators if self.creator else filters.licences
        letters, ids = letters_of(chosen), set(items.ids_of(self.creator))
        return tuple(
            name
            for name, count in zip(names, counts.tolist(), strict=False)
            if count
            and name not in ("", chosen)
            and (letters_of(name) == letters or (self.creator and not ids.isdisjoint(items.ids_of(name))))
        )

    @property
    def _sources(self) -> tuple[str, ...]:
        """The source in either form of accents: names of files have that of the system that wrote them."""
        forms = (unicodedata.normalize(form, self.source) for form in ("NFC", "NFD"))
        return tuple(dict.fromkeys((self.source, *forms)))

    def _rows_from(self, items: ItemTable) -> NDArray[np.int64]:
        return np.unique(np.concatenate([items.rows_from(source) for source in self._sources]))

    @staticmethod
    def _refuse(what: str, problem: str, name: str, known: Iterable[str]) -> None:
        found = nearest(name, known)
        near = f"; near: {', '.join(map(repr, found))}" if found else ""
        raise InvalidArgumentError(f"selection.{what}", f"{problem}; nothing is deleted{near}")


def duplicates_of(snapshot: Snapshot, rows: NDArray[np.int64]) -> tuple[int, ...]:
    """Ids of the items that are there beside some rows and are near duplicates of theirs, by row."""
    items = snapshot.bundle.items
    if not rows.size:
        return ()
    beside = np.isin(items.group_of_row, items.group_of_row[rows])
    if snapshot.alive is not None:
        beside &= snapshot.alive
    beside[rows] = False
    return tuple(map(items.id_of, np.flatnonzero(beside).tolist()))


def _rows_of(of_row: NDArray[np.int32], code: int | None) -> NDArray[np.int64]:
    return np.flatnonzero(of_row == (-1 if code is None else code)).astype(np.int64)


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Names that somebody may have meant: the same but for capitals and blanks, those that hold it, similar ones."""
    # Whoever asks for "Ada" where "ada" and "ADA" are has to see both.
    plain = defaultdict[str, list[str]](list)
    for name in known:
        plain[_plain(name)].append(name)
    wanted = _plain(word)
    found = [wanted] if wanted in plain else []
    found += [name for name in plain if wanted and wanted in name and name != wanted][:count]
    found += get_close_matches(wanted, list(plain)[:_COMPARED], n=count)
    return [name for key in dict.fromkeys(found) for name in plain[key]][:count]


def letters_of(name: str) -> str:
    """Letters and digits alone, without case and accents; of a name without any, itself."""
    return "".join(word.letters for word in words(name)) or name


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _beginnings(uris: Iterable[str]) -> Iterator[str]:
    """What uris begin with, up to each "/" of theirs."""
    for uri in uris:
        yield from (uri[: at + 1] for at, letter in enumerate(uri) if letter == "/")
