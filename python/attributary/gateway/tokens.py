"""Token files: who has which token, at rest as it is or as its SHA-256, and how much each may ask.

TOKEN                       a caller known by the beginning of its token's digest
NAME TOKEN                  a caller with a name, for metrics, fairness and the audit
NAME sha256:HEX rate=20     the token's SHA-256 in place of the token; 20 calls a second, 40 at once
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
_RATE: Final = "rate="
# How many seconds' worth of calls may come at once.
_BURST_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a token is; `rate` is calls a second, 0 for any number."""

    name: str
    rate: float = 0.0


class Rates:
    """A bucket of calls for each owner that has a rate. Used from the event loop only."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # name -> (calls left, as of)

    def take(self, owner: Owner) -> None:
        """Count a call; raises OverloadedError with the time after which the next one is due."""
        if not owner.rate:
            return
        now, most = monotonic(), max(1.0, owner.rate * _BURST_S)
        left, since = self._left.get(owner.name, (most, now))
        left = min(most, left + (now - since) * owner.rate)
        if left < 1:
            self._left[owner.name] = (left, now)
            raise OverloadedError(f"{owner.rate:g} calls a second are allowed", (1 - left) / owner.rate)
        self._left[owner.name] = (left - 1, now)


def read_owners(path: Path, field: str, *, named: bool = False) -> Mapping[bytes, Owner]:
    """Return owners by the SHA-256 digests of their tokens; `named` asks for a name on each line.

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
            digest, owner = _owner(line.split(), named)
        except ValueError as error:
            raise InvalidArgumentError(field, f"line {number} of {path} {error}") from None
        owners[digest] = owner
    if not owners:
        raise InvalidArgumentError(field, f"{path} holds no token")
    return owners


def digest_of_token(token: str) -> bytes:
    """Return what is compared and kept: the SHA-256 of a token."""
    return hashlib.sha256(token.encode("utf-8", errors="replace")).digest()


def _owner(words: list[str], named: bool) -> tuple[bytes, Owner]:
    rate = 0.0
    if words[-1].startswith(_RATE) and len(words) > 1:
        rate = _positive(words.pop()[len(_RATE) :])
    if len(words) not in ({2} if named else {1, 2}):
        raise ValueError("must be: NAME TOKEN" if named else "must be: [NAME] TOKEN [rate=CALLS_A_SECOND]")
    digest = _digest(words[-1])
    name = words[0] if len(words) == 2 else f"token {digest.hex()[:8]}"
    return digest, Owner(name, rate)


def _digest(word: str) -> bytes:
    if not word.startswith(_HASHED):
        return digest_of_token(word)
    text = word[len(_HASHED) :].lower()
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"must have 64 hexadecimal digits after {_HASHED}")
    return bytes.fromhex(text)


def _positive(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise ValueError(f"must have a number above 0 after {_RATE}")
    return rate
