"""One person, one name: creators' names as their uploaders typed them, brought together."""

from __future__ import annotations

import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from attributary_train.corpus.names import slug

_NOBODY = frozenset({"", "none", "me", "anonymous", "unknown", "various", "n-a"})
_HTML_ADDRESS = re.compile(r"\s*[<(\[][^>)\]]*(@|www\.|\.net|http)[^>)\]]*[>)\]]|,?\s*\bhttps?://\S+")
_REMARK = re.compile(r"\s*\((public domain clipart|based on [^)]*)\)", re.IGNORECASE)
_DISGUISED_ADDRESS = re.compile(r"( ON \S+\.\w+|AT\w+DOT\w+)$")
_TITLES = frozenset({"architetto", "dr", "mr", "mrs"})
# Spellings of one person that no rule finds; keys of `_key`.
_SAME = {
    "andrew-dunhan": "andrew-duhan",
    "andrew-fitzsimon": "andy-fitzsimon",
    "fco-hevia-jose": "hevia-jose",
    "balin-jean-vitor": "balin-jean-victor",
}


def tidy_creator(name: str) -> str | None:
    """Strip addresses and remarks from a creator's name; None where nobody is named."""
    if re.match(r"HASH\(0x", name) or re.match(r"(historic|clipart) - ", name, re.IGNORECASE):
        return None
    name = _decoded_once(html.unescape(name))
    name = re.sub(r"^(clipart convert made by|clipart by)\s+", "", name, flags=re.IGNORECASE)
    name = _REMARK.sub("", _HTML_ADDRESS.sub("", name)).removeprefix("mailto:")
    name = re.sub(r"\s+-\s+\S+@\S+$", "", name)
    # What is left of a bare address is its user, which is how others knew them; an address is not ours to publish.
    name = _DISGUISED_ADDRESS.sub("", re.sub(r"@\S+$", "", name)).strip(" ,;-")
    name = re.sub(r"^https?://(www\.)?", "", name)
    return None if slug(name) in _NOBODY or len(slug(name)) < 2 else name


def _decoded_once(name: str) -> str:
    """Undo UTF-8 that was read as Latin-1 and written as UTF-8 again: "JosuÃ©" for "Josué"."""
    if "Ã" not in name and "Å" not in name:
        return name
    try:
        return name.encode("latin-1").decode("utf-8")
    except UnicodeError:
        # An honest letter of a name that was never garbled.
        return name


def _key(name: str) -> str:
    """Order- and spelling-free key: "A.J. Ashton" and "AJ Ashton" agree, as do name orders."""
    parts = [part for part in slug(name.replace(".", "")).split("-") if part and part not in _TITLES]
    key = "-".join(sorted(parts))
    return _SAME.get(key, key)


class CreatorNames:
    """Chooses one spelling for each person: the commonest, ties by alphabet."""

    def __init__(self, raw: Iterable[str]) -> None:
        spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for name in raw:
            tidy = tidy_creator(name)
            if tidy:
                spellings[_key(tidy)][tidy] += 1
        self._display = {
            key: min(found.items(), key=lambda pair: (-pair[1], pair[0]))[0]
            for key, found in spellings.items()
        }

    def display(self, raw: str) -> str | None:
        """Return the chosen spelling, or None where nobody is named."""
        tidy = tidy_creator(raw)
        return self._display[_key(tidy)] if tidy else None
