"""Lines of robots.txt that say what content may be used for, beside what may be fetched: `Content-Signal: ai-train=no`.

Cloudflare's Content Signals Policy (contentsignals.org); `Content-Usage: train-ai=n` of the IETF's AIPREF is alike.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Final

from protego import Protego

from attributary_train.corpus.opt_out.signal import Means

_LINE: Final = re.compile(
    r"^[ \t]*(user-?agent|content-signal|content-usage)[ \t]*:([^#\r\n]*)", re.IGNORECASE
)
_TRAINING: Final = re.compile(r"(?:ai-train|train-ai)\s*=\s*([^\s,;]*)", re.IGNORECASE)
_MEANS: Final[dict[str, Means]] = {"no": "reserved", "n": "reserved", "yes": "allowed", "y": "allowed"}


@dataclass(frozen=True, slots=True)
class Rule:
    """What one line says of training."""

    means: Means
    line: str
    _within: Protego | None  # disallows what the line is about; None: everything

    def covers(self, path: str) -> bool:
        """Whether the line is about this path of the site."""
        return self._within is None or not self._within.can_fetch(path, "*")


def rules(text: str, agents: Container[str]) -> list[Rule]:
    """Return what a robots.txt says of training to any of these agents (lower case), or before it names one."""
    return list(dict.fromkeys(_rules(text, agents)))


def _rules(text: str, agents: Container[str]) -> Iterator[Rule]:
    group, named = True, False
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            # Agents that follow another rule begin a group of their own.
            named = named and (not line.strip() or line.lstrip().startswith("#"))
            continue
        name, value = found[1].lower(), found[2].strip()
        if name.startswith("user"):
            group, named = (group and named) or value.lower() in agents, True
            continue
        named = False
        if group and (said := _TRAINING.search(value)):
            path = value.split()[0] if value.startswith("/") else ""
            within = Protego.parse(f"User-agent: *\nDisallow: {path}") if path else None
            yield Rule(_MEANS.get(said[1].lower(), "unreadable"), line.strip()[:200], within)
