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

from attributary_train.corpus.opt_out.signal import Means, Signal

_MAX_BYTES: Final = 4 << 20
_TDMREP: Final = (".well-known/tdmrep.json", "tdmrep.json")
_AI_TXT: Final = ("ai.txt", ".well-known/ai.txt")
_MAX_PAGES: Final = 10_000
_PAGES: Final = "*.*[hH][tT][mM]*"
# An agent is a product's name; its version is not part of it (RFC 9309, section 2.2.1).
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


@dataclass(slots=True)
class Site:
    """What the files of a folder say, read once."""

    folder: Path
    _rules: list[tuple[Path, list[_Rule], str, str]] = field(default_factory=list)
    _robots: list[tuple[Path, Protego, str, str, str]] = field(default_factory=list)
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

    def _read_pages(self) -> None:
        """Pages that reserve rights reserve them for the pictures that they show."""
        roots = (self.folder, self.folder.parent)
        pages = [path for root in roots for path in sorted(root.glob(_PAGES))]
        pages += sorted(path for path in self.folder.rglob(_PAGES) if path.parent != self.folder)
        for path in pages[:_MAX_PAGES]:
            data = _read(path)
            text = "" if data is None else _text(data)
            if data is None or "tdm-reservation" not in text.lower():
                continue
            page = _Page()
            page.feed(text)
            means = _MEANS_OF_FLAG.get(page.reservation.strip(), "unreadable")
            value = json.dumps({"tdm-reservation": page.reservation, "tdm-policy": page.policy})[:200]
            signal = Signal(
                "tdmrep", means, value, _shown(path, self.folder), hashlib.sha256(data).hexdigest()
            )
            for place in (place for link in page.pictures for place in _linked(link, page.base, path, roots)):
                self._pages.setdefault(place, {})[signal] = None


_MEANS_OF_FLAG: Final[dict[str, Means]] = {"1": "reserved", "0": "allowed"}


class _Page(HTMLParser):
    """The reservation of an HTML page, and the pictures that it shows or links to."""

    def __init__(self) -> None:
        super().__init__()
        self.reservation, self.policy, self.base = "", "", ""
        self.pictures: list[str] = []

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """`<![...` is a comment in HTML, as in newer releases of the library; this one's raises."""
        return self.parse_bogus_comment(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "meta":
            name = attributes.get("name", "").lower()
            if name == "tdm-reservation":
                self.reservation = attributes.get("content", "")
            elif name == "tdm-policy":
                self.policy = attributes.get("content", "")
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
        if parts.scheme or parts.netloc or not parts.path:
            return []
        path = parts.path
        if not path.startswith("/") and not start.netloc:
            path = "".join(start.path.rpartition("/")[:2]) + path
        folders = roots if path.startswith("/") else [page.parent]
        return [_place(folder / unquote(path).lstrip("/")) for folder in folders]
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
        means: Means = "unreadable" if isinstance(flag, bool) else _MEANS_OF_FLAG.get(str(flag), "unreadable")
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
