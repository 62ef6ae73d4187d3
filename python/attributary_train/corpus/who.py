"""Who made a picture, by the identifiers in a table of captions: checked, and one creator's for one name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attributary.bundle.creator_ids import identifier, isni, orcid
from attributary.errors import InvalidArgumentError


class Creators:
    """The creators of a source. A name stands for one creator everywhere, so two people of one name need two names."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}  # (name, scheme) -> identifier

    def ids_of(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the identifiers in `creator_isni`, `creator_orcid` and `creator_ids` (a list, or separated by blanks).

        Raises InvalidArgumentError for one that is mistyped, and for a second one of its kind.
        """
        found = [
            read(str(value), name)
            for name, read in (("creator_isni", isni), ("creator_orcid", orcid))
            if (value := facts.get(name)) not in (None, "")
        ]
        listed = facts.get("creator_ids") or ()
        found += [identifier(str(one)) for one in (listed.split() if isinstance(listed, str) else listed)]
        creator = " ".join(str(facts.get("creator") or "").split())
        if found and not creator:
            raise InvalidArgumentError("creator", f"is empty beside {found[0]}")
        for one in found:
            before = self._known.setdefault((creator, one.partition(":")[0]), one)
            if before != one:
                raise InvalidArgumentError(
                    "creator_ids",
                    f"{creator!r} is {before} before and {one} here: two creators need two names",
                )
        return tuple(sorted(set(found)))
