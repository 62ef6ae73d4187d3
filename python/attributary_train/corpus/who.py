"""Who made a picture, by a table's or a sample's facts: one spelling of a name, identifiers that were checked."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from attributary.bundle.names import check_name, identifier, isni, names_nobody, orcid, same_name
from attributary.errors import InvalidArgumentError
from attributary.plain import counted
from attributary_train.corpus.item import UNKNOWN_CREATOR
from attributary_train.corpus.sources.captions import text_of

_TOLD = 5


class Creators:
    """The creators of a source. A name stands for one creator everywhere, so two people of one name need two names."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}  # (name, scheme) -> identifier
        self._pictures: Counter[str] = Counter()  # by name

    def of(self, facts: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        """Return the name ("unknown" where nobody is named) and the identifiers of a picture's creator.

        Identifiers are in `creator_isni`, `creator_orcid` and `creator_ids` (a list, or separated by blanks). Raises
        InvalidArgumentError for a creator that is no name, an identifier that is mistyped, a second one of its kind,
        and for a licence that no bundle takes.
        """
        check_name(text_of(facts.get("licence") or facts.get("license")), "licence")
        name = _name(facts.get("creator"))
        ids = self._ids_of(facts, name)
        self._pictures[name] += 1
        return name, ids

    def notes(self) -> list[str]:
        """Names that may be one creator's, who would be paid in parts; and how many pictures name nobody."""
        alike: defaultdict[str, set[str]] = defaultdict(set)
        for name in self._pictures:
            alike[_letters(name)].add(name)
        for (name, _), one in self._known.items():
            alike[one].add(name)
        named = [sorted(names) for names in alike.values() if len(names) > 1]
        several = list(dict.fromkeys(" and ".join(map(repr, names)) for names in named))
        more = f", and {len(several) - _TOLD} more" if len(several) > _TOLD else ""
        found = [f"one creator under several names? {'; '.join(several[:_TOLD])}{more}"] if several else []
        if nameless := self._pictures[UNKNOWN_CREATOR]:
            found.append(f"{counted(nameless, 'picture')} of {self._pictures.total():,} name no creator")
        return found

    def _ids_of(self, facts: Mapping[str, Any], creator: str) -> tuple[str, ...]:
        found = [
            read(text, name)
            for name, read in (("creator_isni", isni), ("creator_orcid", orcid))
            if (text := text_of(facts.get(name)))
        ]
        listed = facts.get("creator_ids") or ()
        found += [identifier(str(one)) for one in (listed.split() if isinstance(listed, str) else listed)]
        if found and creator == UNKNOWN_CREATOR:
            raise InvalidArgumentError("creator", f"is empty beside {found[0]}")
        for one in found:
            before = self._known.setdefault((creator, one.partition(":")[0]), one)
            if before != one:
                raise InvalidArgumentError(
                    "creator_ids",
                    f"{creator!r} is {before} before and {one} here: two creators need two names",
                )
        return tuple(sorted(set(found)))


def _name(value: object) -> str:
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | tuple | dict | bool):
        raise InvalidArgumentError("creator", f"must be one name, is {str(value)[:80]}")
    name = same_name(text_of(value))
    if names_nobody(name):
        return UNKNOWN_CREATOR
    check_name(name, "creator")
    return name


def _letters(name: str) -> str:
    """What is left of a name without capitals, points and blanks; the name itself if that is nothing."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold()) or name
