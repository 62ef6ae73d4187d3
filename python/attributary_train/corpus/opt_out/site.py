"""Files of a web site that came along with a folder of pictures: tdmrep.json, HTML pages, robots.txt, ai.txt.

They are looked for in the folder and in the one that it lies in, each taken as the root of a site.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from protego import Protego

from attributary_train.corpus.opt_out import content_signals
from attributary_train.corpus.opt_out.signal import Means, Signal, meaning_of_flag

_MAX_BYTES: Final = 4 << 20
_TDMREP: Final = (".well-known/tdmrep.json", "tdmrep.json")
_AI_TXT: Final = ("ai.txt", ".well-known/ai.txt")
_MAX_PAGES: Final = 10_000
_PAGES: Final = "*.*[hH][tT][mM]*"
# An agent is a product's name; its version is not part of it (RFC 9309, section 2.2.1).
# What makes a page worth reading; metadata of pages that speak to robots, and what they say for us.
_SAYS: Final = re.compile(r"tdm-reservation|noai|noimageai", re.IGNORECASE)
_TO_ROBOTS: Final = frozenset({"robots", "x-robots-tag", "googlebot"})
_NOAI: Final = frozenset({"noai", "noimageai"})
_VERSION: Final = re.compile(
    r"^([ \t]*user-?agent[ \t]*:[ \t]*[^\s/#]+)/[^\s#]*", re.IGNORECASE | re.MULTILINE
)
# (parts of the location between its "*", meaning, the rule as it stands)
_Rule = tuple[list[str], Means, str]
# Agents whose makers say that what they fetch, or may use, is for training.
TRAINING_AGENTS: Final = (
    "GPTBot", "Google-Extended", "CCBot", "ClaudeBot", "anthropic-ai", "Applebot-Extended", "Bytespider",
    "Meta-ExternalAgent", "FacebookBot", "Amazonbot", "cohere-training-data-crawler", "Diffbot", "img2dataset",
    "LAION-HuggingFace-Processor",
)  # fmt: skip
_AGENTS: Final = frozenset(map(str.lower, TRAINING_AGENTS))


@dataclass(slots=True)
class Site:
    """What the files of a folder say, read once."""

    folder: Path
    _rules: list[tuple[Path, list[_Rule], str, str]] = field(default_factory=list)
    _robots: list[tuple[Path, Protego, str, str, str]] = field(default_factory=list)
    _contents: list[tuple[Path, list[content_signals.Rule], str, str]] = field(default_factory=list)
    _pages: dict[str, dict[Signal, None]] = field(default_factory=dict)  # by `_place` of a picture
    _broken: list[Signal] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> Site:
        """Read the files in and above a folder of pictures."""
        site = cls(folder.resolve())
        for root in (site.folder, site.folder.parent):
            for kind, names in (("tdmrep", _TDMREP), ("robots", ("robots.txt",)), ("ai.txt", _AI_TXT)):
                for name in names:
                    if (root / name).is_file():
                        site._add(root, root / name, kind)
        site._read_pages()
        return site

    def signals(self, picture: Path) -> Iterator[Signal]:
        """Yield what the files say of one picture of the folder."""
        yield from self._broken
        for root, rules, source, sha256 in self._rules:
            paths = _url_paths(picture, root)
            rule = next((rule for rule in rules if any(_matches(rule[0], path) for path in paths)), None)
            if rule is not None:
                yield Signal("tdmrep", rule[1], rule[2], source, sha256)
        for root, robots, kind, source, sha256 in self._robots:
            paths = _url_paths(picture, root)
            refused = [
                agent for agent in TRAINING_AGENTS if not all(robots.can_fetch(path, agent) for path in paths)
            ]
            if refused:
                value = (
                    "every agent that trains" if len(refused) == len(TRAINING_AGENTS) else ", ".join(refused)
                )
                yield Signal(kind, "reserved", f"disallowed for {value}", source, sha256)
        for root, contents, source, sha256 in self._contents:
            paths = _url_paths(picture, root)
            for one in contents:
                if any(one.covers(path) for path in paths):
                    yield Signal("content-signal", one.means, one.line, source, sha256)
        yield from self._pages.get(_place(picture), ())

    def _add(self, root: Path, path: Path, kind: str) -> None:
        source = _shown(path, self.folder)
        data = _read(path)
        sha256 = hashlib.sha256(data or b"").hexdigest()
        if data is None:
            self._broken.append(Signal(kind, "unreadable", "is too large or cannot be read", source, sha256))
        elif kind == "tdmrep":
            try:
                self._rules.append((root, list(_tdm_rules(json.loads(data))), source, sha256))
            except (ValueError, TypeError, RecursionError) as error:
                self._broken.append(
                    Signal(kind, "unreadable", f"is no tdmrep.json: {error}"[:200], source, sha256)
                )
        else:
            text = _VERSION.sub(r"\1", _text(data))
            self._robots.append((root, Protego.parse(text), kind, source, sha256))
            self._contents.append((root, content_signals.rules(text, _AGENTS | {"*"}), source, sha256))

    def _read_pages(self) -> None:
        """Pages that reserve rights reserve them for the pictures that they show."""
        roots = (self.folder, self.folder.parent)
        pages = [path for root in roots for path in sorted(root.glob(_PAGES))]
        pages += sorted(path for path in self.folder.rglob(_PAGES) if path.parent != self.folder)
        for path in pages[:_MAX_PAGES]:
            data = _read(path)
            text = "" if data is None else _text(data)
            if data is None or not _SAYS.search(text):
                continue
            page = _Page()
            page.feed(text)
            signals = dict.fromkeys(page.signals(_shown(path, self.folder), hashlib.sha256(data).hexdigest()))
            for place in (place for link in page.pictures for place in _linked(link, page.base, path, roots)):
                self._pages.setdefault(place, {}).update(signals)


class _Page(HTMLParser):
    """The reservation of an HTML page, and the pictures that it shows or links to."""

    def __init__(self) -> None:
        super().__init__()
        self.reservation: str | None = None
        self.policy, self.base = "", ""
        self.noai: list[str] = []
        self.pictures: list[str] = []

    def signals(self, source: str, sha256: str) -> Iterator[Signal]:
        """Yield what the page says."""
        if self.reservation is not None:
            value = json.dumps({"tdm-reservation": self.reservation, "tdm-policy": self.policy})[:200]
            yield Signal("tdmrep", meaning_of_flag(self.reservation), value, source, sha256)
        if self.noai:
            yield Signal("noai", "reserved", "; ".join(self.noai)[:200], source, sha256)

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """`<![...` is a comment in HTML, as in newer releases of the library; this one's raises."""
        return self.parse_bogus_comment(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "meta":
            # Of a header that a page stands in for.
            name = (attributes.get("name") or attributes.get("http-equiv", "")).strip().lower()
            said = attributes.get("content", "")
            if name == "tdm-reservation":
                self.reservation = said
            elif name == "tdm-policy":
                self.policy = said
            elif name in _TO_ROBOTS | _AGENTS and not _NOAI.isdisjoint(re.split(r"[\s,:]+", said.lower())):
                self.noai.append(said)
        elif tag == "base":
            self.base = self.base or attributes.get("href", "")
        elif tag in ("img", "source", "a"):
            self.pictures += [attributes[name] for name in ("src", "href") if attributes.get(name)]
            self.pictures += [
                part.split()[0] for part in attributes.get("srcset", "").split(",") if part.strip()
            ]


def _linked(link: str, base: str, page: Path, roots: Sequence[Path]) -> list[str]:
    """The places of the pictures that a link of a page may lead to; none for what leads elsewhere or is no link."""
    try:
        parts, start = urlsplit(link), urlsplit(base)
        if parts.scheme not in ("", "http", "https") or not parts.path:
            return []
        # Pages name pictures of their own site by whole addresses, too; of which site they are no folder says.
        paths = [parts.path]
        if not parts.path.startswith("/"):
            based = "".join(start.path.rpartition("/")[:2]) + parts.path
            # Whoever saved the page may have put its pictures beside it, and left its base.
            paths = [based, parts.path] if start.netloc else [based]
        return [
            _place(folder / unquote(path).lstrip("/"))
            for path in paths
            for folder in (roots if path.startswith("/") else [page.parent])
        ]
    except ValueError:
        return []


def _place(path: Path) -> str:
    """Where a file really is, in one form of accents: a page may have the other than the folder."""
    return unicodedata.normalize("NFC", os.path.realpath(path))


def _tdm_rules(attributes: Any) -> Iterator[_Rule]:
    """Read each rule; raises TypeError, ValueError for what is none."""
    for rule in attributes if isinstance(attributes, list) else [attributes]:
        if not isinstance(rule, dict) or not isinstance(rule.get("location"), str):
            raise TypeError("a rule has no location")
        flag = rule.get("tdm-reservation")
        means: Means = "unreadable" if isinstance(flag, bool) else meaning_of_flag(str(flag))
        location = rule["location"]
        pattern = location[:-1] if location.endswith("$") else location + "*"
        parts = [quote(unquote(part)) for part in pattern.split("*")]
        yield parts, means, json.dumps(rule, sort_keys=True)[:200]


def _matches(parts: Sequence[str], path: str) -> bool:
    """Whether a path is made of these parts in their order, with anything between them."""
    first, *middle = parts[:-1] or ("",)
    at = len(first)
    if not path.startswith(first):
        return False
    for part in middle:
        at = path.find(part, at) + len(part)
        if at < len(part):
            return False
    return path[at:].endswith(parts[-1]) if len(parts) > 1 else path == parts[0]


def _url_paths(picture: Path, root: Path) -> list[str]:
    """A picture's path on the site, in each form that its accents may have there."""
    name = picture.relative_to(root).as_posix()
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return ["/" + quote(os.fsencode(form)) for form in dict.fromkeys(forms)]


def _text(data: bytes) -> str:
    """A text of a site; the mark of an encoding that it begins with is no part of it."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    return data.decode("utf-16" if wide else "utf-8-sig", "replace")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= _MAX_BYTES else None
    except OSError:
        return None


def _shown(path: Path, folder: Path) -> str:
    """A file as seen from the folder of pictures: nothing of where that lies."""
    return (
        path.relative_to(folder).as_posix()
        if path.is_relative_to(folder)
        else f"../{path.relative_to(folder.parent).as_posix()}"
    )
