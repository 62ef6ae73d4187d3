"""Files of a web site that came along with a folder of pictures: tdmrep.json, HTML pages, robots.txt, ai.txt.

They are looked for in the folder and in the one that it lies in, each taken as the root of a site.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
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
    _rules: list[tuple[Path, list[tuple[str, Means, str]], str, str]] = field(default_factory=list)
    _robots: list[tuple[Path, Protego, str, str, str]] = field(default_factory=list)
    _pages: dict[str, Signal] = field(default_factory=dict)
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
            path = _url_path(picture, root)
            rule = next((rule for rule in rules if _matches(rule[0], path)), None)
            if rule is not None:
                yield Signal("tdmrep", rule[1], rule[2], source, sha256)
        for root, robots, kind, source, sha256 in self._robots:
            path = _url_path(picture, root)
            refused = [agent for agent in TRAINING_AGENTS if not robots.can_fetch(path, agent)]
            if refused:
                value = (
                    "every agent that trains" if len(refused) == len(TRAINING_AGENTS) else ", ".join(refused)
                )
                yield Signal(kind, "reserved", f"disallowed for {value}", source, sha256)
        page = self._pages.get(str(picture))
        if page is not None:
            yield page

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
            self._robots.append((root, Protego.parse(data.decode("utf-8", "replace")), kind, source, sha256))

    def _read_pages(self) -> None:
        """Pages that reserve rights reserve them for the pictures that they show."""
        pages = [path for root in (self.folder, self.folder.parent) for path in sorted(root.glob("*.htm*"))]
        pages += sorted(path for path in self.folder.rglob("*.htm*") if path.parent != self.folder)
        for path in pages[:_MAX_PAGES]:
            data = _read(path)
            if data is None or b"tdm-reservation" not in data.lower():
                continue
            page = _Page()
            page.feed(data.decode("utf-8", "replace"))
            means = _MEANS_OF_FLAG.get(page.reservation.strip(), "unreadable")
            value = json.dumps({"tdm-reservation": page.reservation, "tdm-policy": page.policy})[:200]
            signal = Signal(
                "tdmrep", means, value, _shown(path, self.folder), hashlib.sha256(data).hexdigest()
            )
            for link in page.pictures:
                parts = urlsplit(link)
                if not parts.scheme and not parts.netloc and parts.path:
                    base = self.folder if parts.path.startswith("/") else path.parent
                    shown = (base / unquote(parts.path).lstrip("/")).resolve()
                    self._pages.setdefault(str(shown), signal)


_MEANS_OF_FLAG: Final[dict[str, Means]] = {"1": "reserved", "0": "allowed"}


class _Page(HTMLParser):
    """The reservation of an HTML page, and the pictures that it shows or links to."""

    def __init__(self) -> None:
        super().__init__()
        self.reservation, self.policy = "", ""
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "meta":
            name = attributes.get("name", "").lower()
            if name == "tdm-reservation":
                self.reservation = attributes.get("content", "")
            elif name == "tdm-policy":
                self.policy = attributes.get("content", "")
        elif tag in ("img", "source", "a"):
            self.pictures += [attributes[name] for name in ("src", "href") if attributes.get(name)]
            self.pictures += [
                part.split()[0] for part in attributes.get("srcset", "").split(",") if part.strip()
            ]


def _tdm_rules(attributes: Any) -> Iterator[tuple[str, Means, str]]:
    """(location, meaning, the rule as it stands) of each rule; raises TypeError, ValueError for what is none."""
    for rule in attributes if isinstance(attributes, list) else [attributes]:
        if not isinstance(rule, dict) or not isinstance(rule.get("location"), str):
            raise TypeError("a rule has no location")
        flag = rule.get("tdm-reservation")
        means: Means = "unreadable" if isinstance(flag, bool) else _MEANS_OF_FLAG.get(str(flag), "unreadable")
        yield rule["location"], means, json.dumps(rule, sort_keys=True)[:200]


def _matches(location: str, path: str) -> bool:
    """Whether a location of tdmrep.json is that of a path: its beginning, "*" for anything, "$" for the end."""
    if "*" not in location and not location.endswith("$"):
        return path.startswith(quote(unquote(location)))
    whole = location.endswith("$")
    parts = [re.escape(quote(unquote(part))) for part in location.removesuffix("$").split("*")]
    return re.match(".*".join(parts) + ("$" if whole else ""), path) is not None


def _url_path(picture: Path, root: Path) -> str:
    return "/" + quote(picture.relative_to(root).as_posix())


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
