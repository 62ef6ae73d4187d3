"""Creators' names in prompts are not read: otherwise a caller could decide by a name whose picture it was.

A creator's whole name is left out of a prompt wherever it stands, in any case, with any accents, punctuation or
spacing, joined or spelled; so is each word of it, since an encoder that has learnt the name has learnt its words. What
a caption of somebody else in the bundle holds, "apple" or "mark", is a word as well: it is left out only where the
prompt says that it is a name ("by", "in the style of"). What led to the name goes with it. A prompt without a name is
left as it is.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from attributary.bundle.items import ItemTable

# Words of companies' names that name nobody.
_FORMS = frozenset(
    ("ag", "bv", "co", "company", "corp", "corporation", "foundation", "gmbh", "inc", "kg", "limited", "llc", "ltd",
     "plc", "sa", "srl")
)  # fmt: skip
_SMALL = frozenset(
    ("and", "das", "dem", "den", "der", "des", "die", "ibn", "les", "los", "the", "und", "van", "von")
)
# What is shorter is a name only where the prompt says so: a whole name, and a word of one.
_LEAST_LETTERS, _LEAST_LETTERS_OF_A_WORD = 2, 4
_LONGEST_NAME = 64  # letters; of longer ones the words count alone
_BEGINNING = 3  # letters that most other words are told from names by
_LONGEST_PHRASE = 4  # words that are looked for in captions
_ROUNDS = 8
_ROWS, _MOST_ROWS = 1 << 16, 1 << 20

_ASCII_WORD = re.compile(r"[A-Za-z0-9]+")
# Written without spaces: each character is a word.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_BETWEEN = r"[\s,;:(\[\"'\u201c\u201d\u2018\u2019@#©*_/|~-]*"
_MANNER = r"(?:in|after)\s+(?:the\s+)?(?:style|manner|spirit|fashion|look)\s+of|style\s+of"
_WORK = r"(?:(?:(?:an?|the)\s+)?(?:art|artwork|works?|design|drawing|painting|illustration|inspired)\s+)?by"
# What says that a name follows, up to the name.
_LEAD = re.compile(
    rf"{_BETWEEN}(?:(?<![^\W_])(?:{_MANNER}|{_WORK}|artist|author|creator|credits?|copyright)|[©@]){_BETWEEN}$",
    re.IGNORECASE,
)
_NOTHING = re.compile(rf"{_BETWEEN}$")
_TRAIL = re.compile(
    r"(?:['\u2019]s?\b)?(?:[\s_-]+(?:styled?|inspired|esque)\b)?[\"'\u201c\u201d\u2018\u2019)\]*.]*",
    re.IGNORECASE,
)
_LED = 80  # characters before a name that may lead to it


@dataclass(frozen=True, slots=True)
class _Word:
    letters: str  # without case and accents
    start: int
    end: int

    @property
    def single(self) -> bool:
        return len(self.letters) == 1


class PromptNames:
    """The names of a bundle's creators, and prompts without them. `items`: those that the bundle was made with."""

    def __init__(self, items: ItemTable, creators: Sequence[str] = ()) -> None:
        self._items = items
        self._creators = tuple(creators or items.creator_names)
        self._known = frozenset(self._creators)

    def after(self, creators: Iterable[str]) -> PromptNames:
        """The names with those of further creators, whose captions make no name a word.

        What waits to be let in decides nothing, and of whoever left before a compaction no caption is there.
        """
        new = dict.fromkeys(name for name in creators if name not in self._known)
        if not new:
            return self
        following = PromptNames(self._items, [*self._creators, *new])
        if "_everywhere" in self.__dict__:
            following.ready()
        return following

    def ready(self) -> None:
        """Do now what the first prompt would wait for: a walk over all captions."""
        _ = self._everywhere

    def without(self, prompt: str) -> str:
        """The prompt without creators' names; the very same if it holds none."""
        for _ in range(_ROUNDS):
            # What is left may stand together to a name.
            following = self._once(prompt)
            if following == prompt:
                return prompt
            prompt = following
        # No honest prompt is names within names.
        return ""

    def _once(self, prompt: str) -> str:
        found = list(self._found(prompt, words(prompt)))
        for start, end in reversed(found):
            before = prompt[max(0, start - _LED) : start]
            lead = _LEAD.search(before) or _NOTHING.search(before)
            assert lead is not None
            trail = _TRAIL.match(prompt, end)
            head = prompt[: start - len(before) + lead.start()]
            rest = prompt[trail.end() if trail else end :]
            if not head:
                rest = rest.lstrip(" ,;:")
            prompt = f"{head} {rest}" if head and rest[:1].isalnum() else head + rest
        return prompt if not found or words(prompt) else ""

    def _found(self, prompt: str, found: list[_Word]) -> Iterator[tuple[int, int]]:
        """Where names stand, longest first, from left to right."""
        at = 0
        while at < len(found):
            letters, longest, spelled = "", 0, True
            for stop in range(at, len(found)):
                letters += found[stop].letters
                if len(letters) > _LONGEST_NAME:
                    break
                if len(letters) >= _BEGINNING and not self._begins_one(letters):
                    break
                spelled &= found[stop].single
                one = stop == at or spelled
                if self._counts(letters, one, prompt, found[at].start):
                    longest = stop + 1 - at
            if longest:
                yield found[at].start, found[at + longest - 1].end
            at += longest or 1

    def _begins_one(self, letters: str) -> bool:
        """Whether a name begins so; else a prompt of spelled letters would be read over and over."""
        if letters[:_BEGINNING] not in self._beginnings:
            return False
        place = bisect_left(self._sorted, letters)
        return place < len(self._sorted) and self._sorted[place].startswith(letters)

    def _counts(self, letters: str, one: bool, prompt: str, start: int) -> bool:
        """Whether letters, of one word or of several, are a name that starts here."""
        wheres = self._everywhere
        where = wheres.get(letters) if letters in self._of_several or one else None
        if where is None or where:
            return bool(where)
        return _LEAD.search(prompt[max(0, start - _LED) : start]) is not None

    @cached_property
    def _names(self) -> dict[tuple[str, ...], tuple[str | None, int]]:
        """Words that are a name or one of its words -> their creator, None of several; letters it needs to count."""
        found: dict[tuple[str, ...], tuple[str | None, int]] = {}
        for creator in self._creators:
            whole, parts = _names_in(creator)
            for names, least in ((whole, _LEAST_LETTERS), (parts, _LEAST_LETTERS_OF_A_WORD)):
                for name in names:
                    other, other_least = found.get(name, (creator, least))
                    found[name] = (creator if other == creator else None, min(least, other_least))
        return found

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset("".join(name)[:_BEGINNING] for name in self._names)

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._everywhere)

    @cached_property
    def _of_several(self) -> frozenset[str]:
        return frozenset("".join(name) for name in self._names if len(name) > 1)

    @cached_property
    def _everywhere(self) -> dict[str, bool]:
        """Letters of each name -> whether it is one wherever it stands, not only where the prompt says so."""
        ordinary = self._ordinary()
        found: dict[str, bool] = {}
        for name, (_, least) in self._names.items():
            letters = "".join(name)
            found[letters] = found.get(letters, False) or (len(letters) >= least and name not in ordinary)
        return found

    def _ordinary(self) -> set[tuple[str, ...]]:
        """Names that captions of somebody else hold."""
        items, names = self._items, self._names
        left = {name for name in names if len(name) <= _LONGEST_PHRASE}
        found: set[tuple[str, ...]] = set()
        first = {name[0] for name in left}
        start, rows = 0, _ROWS
        while start < len(items):
            for row in items.rows_with_words(first, start, start + rows).tolist():
                spoken = _letters(items.caption(row))
                creator = items.creator(row)
                phrases = {
                    spoken[at : at + count]
                    for at in range(len(spoken))
                    for count in range(1, _LONGEST_PHRASE + 1)
                }
                found |= {name for name in phrases & left if names[name][0] != creator}
            if not left.isdisjoint(found):
                # What has been found is looked for no more, so that later rows cost next to nothing.
                left -= found
                first = {name[0] for name in left}
            # Then more are taken at once: each time all these words are gone through.
            start, rows = start + rows, min(2 * rows, _MOST_ROWS)
        return found


def _names_in(creator: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """What a creator is called, with and without the form of a company; and single words of that."""
    whole = _letters(creator)
    bare = whole
    while len(bare) > 1 and bare[-1] in _FORMS:
        bare = bare[:-1]
    parts: list[tuple[str, ...]] = []
    if len(bare) > 1:
        parts = [
            (part,) for part in bare if len(part) > 2 and not part.isdigit() and part not in _FORMS | _SMALL
        ]
    return [name for name in (whole, bare) if 0 < sum(map(len, name)) <= _LONGEST_NAME], parts


def _letters(text: str) -> tuple[str, ...]:
    """The letters of each of a text's words."""
    if text.isascii():
        return tuple(_ASCII_WORD.findall(text.lower()))
    return tuple(word.letters for word in words(text))


def words(text: str) -> list[_Word]:
    """The words of a text as names are compared: letters and digits alone, without case and accents, [start, end)."""
    if text.isascii():
        return [_Word(found.group().lower(), *found.span()) for found in _ASCII_WORD.finditer(text)]
    found: list[_Word] = []
    going_on = False
    for at, character in enumerate(text):
        letters = "".join(filter(str.isalnum, unicodedata.normalize("NFKD", character).casefold()))
        if letters and going_on and not _UNSPACED.match(character):
            found[-1] = _Word(found[-1].letters + letters, found[-1].start, at + 1)
        elif letters:
            found.append(_Word(letters, at, at + 1))
            going_on = not _UNSPACED.match(character)
        elif unicodedata.category(character)[0] != "M" and unicodedata.category(character) != "Cf":
            # Accents that stand alone and what cannot be seen part no word.
            going_on = False
    return found
