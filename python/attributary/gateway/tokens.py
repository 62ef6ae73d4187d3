"""Token files: who has which token, at rest as it is or as its SHA-256, and how much each may ask.

TOKEN                       a caller known by the beginning of its token's digest
NAME TOKEN                  a caller with a name, for metrics, fairness and the audit
NAME sha256:HEX rate=20     the token's SHA-256 in place of the token; 20 calls a second, 40 at once
NAME TOKEN roles=query,read-items quota=5000 items=50
                            only these roles (`attributary.gateway.access`); calls, and additions, in 24 hours

Words after the token may come in any order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from attributary.errors import InvalidArgumentError, OverloadedError

from .reload import read_guarded

_HASHED: Final = "sha256:"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
# What tokens of either file can do, and what they may without `roles=`.
QUERY_ROLES: Final = frozenset({"query", "embeddings", "read-items"})
ADMIN_ROLES: Final = frozenset({"contribute", "admin"})
ALL_ROLES: Final = QUERY_ROLES | ADMIN_ROLES
_USUAL: Final = {QUERY_ROLES: QUERY_ROLES, ADMIN_ROLES: frozenset({"admin"})}
_DAY_S: Final = 86_400.0
_SETTINGS: Final = ("rate", "roles", "quota", "items")
# How many seconds' worth of calls may come at once.
_BURST_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a token is, and what it may; 0 stands for any number."""

    name: str
    rate: float = 0.0  # calls a second
    roles: frozenset[str] = QUERY_ROLES
    quota: int = 0  # calls a day
    items: int = 0  # additions a day

    def may(self, role: str) -> bool:
        """Whether it has a role; an admin has every one."""
        return role in self.roles or "admin" in self.roles


class Rates:
    """A bucket of calls for each owner that has a rate, a count for each that has a quota, both since the start.

    Used from the event loop only.
    """

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # name -> (calls left, as of)
        self._days: dict[str, tuple[int, float]] = {}  # name -> (calls of the day, when it began)

    def take(self, owner: Owner) -> None:
        """Count a call; raises OverloadedError with the time after which the next one is due."""
        if owner.rate:
            self._take_rate(owner)
        if owner.quota:
            self._take_quota(owner)

    def _take_quota(self, owner: Owner) -> None:
        now = monotonic()
        count, began = self._days.get(owner.name, (0, now))
        if now >= began + _DAY_S:
            count, began = 0, now
        if count >= owner.quota:
            raise OverloadedError(f"{owner.quota} calls a day are allowed", began + _DAY_S - now)
        self._days[owner.name] = (count + 1, began)

    def _take_rate(self, owner: Owner) -> None:
        now, most = monotonic(), max(1.0, owner.rate * _BURST_S)
        left, since = self._left.get(owner.name, (most, now))
        left = min(most, left + (now - since) * owner.rate)
        if left < 1:
            self._left[owner.name] = (left, now)
            raise OverloadedError(f"{owner.rate:g} calls a second are allowed", (1 - left) / owner.rate)
        self._left[owner.name] = (left - 1, now)


def read_owners(
    path: Path, field: str, roles: frozenset[str] = QUERY_ROLES, *, named: bool = False
) -> Mapping[bytes, Owner]:
    """Return owners by the SHA-256 digests of their tokens; `named` asks for a name on each line.

    `roles`, QUERY_ROLES or ADMIN_ROLES, are those that a line of this file may give.

    Raises InvalidArgumentError naming `field` and the line.
    """
    try:
        lines = read_guarded(path, field).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(field, f"cannot be read: {error}") from None
    owners: dict[bytes, Owner] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            digest, owner = _owner(line.split(), named, roles)
        except ValueError as error:
            raise InvalidArgumentError(field, f"line {number} of {path} {error}") from None
        owners[digest] = owner
    if not owners:
        raise InvalidArgumentError(field, f"{path} holds no token")
    return owners


def digest_of_token(token: str) -> bytes:
    """Return what is compared and kept: the SHA-256 of a token."""
    return hashlib.sha256(token.encode("utf-8", errors="replace")).digest()


def _owner(words: list[str], named: bool, roles: frozenset[str]) -> tuple[bytes, Owner]:
    given: dict[str, str] = {}
    while len(words) > 1 and (parted := words[-1].partition("="))[1] and parted[0] in _SETTINGS:
        given.setdefault(parted[0], parted[2])
        words.pop()
    if len(words) not in ({2} if named else {1, 2}):
        raise ValueError(
            f"must be: {'NAME TOKEN' if named else '[NAME] TOKEN'}, then any of {', '.join(_SETTINGS)}= and a value"
        )
    digest = _digest(words[-1])
    name = words[0] if len(words) == 2 else f"token {digest.hex()[:8]}"
    return digest, Owner(
        name,
        rate=_positive(given["rate"], "rate") if "rate" in given else 0.0,
        roles=_roles(given["roles"], roles) if "roles" in given else _USUAL[roles],
        quota=int(_positive(given["quota"], "quota", whole=True)) if "quota" in given else 0,
        items=int(_positive(given["items"], "items", whole=True)) if "items" in given else 0,
    )


def _roles(text: str, known: frozenset[str]) -> frozenset[str]:
    roles = frozenset(text.split(","))
    if not roles <= known:
        raise ValueError(f"must have of the roles {', '.join(sorted(known))} after roles=")
    return roles


def _digest(word: str) -> bytes:
    if not word.startswith(_HASHED):
        return digest_of_token(word)
    text = word[len(_HASHED) :].lower()
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"must have 64 hexadecimal digits after {_HASHED}")
    return bytes.fromhex(text)


def _positive(text: str, name: str, whole: bool = False) -> float:
    try:
        value = float(int(text)) if whole else float(text)
    except (ValueError, OverflowError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"must have a {'whole ' if whole else ''}number above 0 after {name}=")
    return value
