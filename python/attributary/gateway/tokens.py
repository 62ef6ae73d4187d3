"""Tokens: who has which, and how much each may ask; in files, or signed (JWT, RFC 7519; needs attributary[jwt]).

In a file a token is at rest as it is or as its SHA-256:

TOKEN                       a caller known by the beginning of its token's digest
NAME TOKEN                  a caller with a name, for metrics, fairness and the audit
NAME sha256:HEX rate=20     the token's SHA-256 in place of the token; 20 calls a second, 40 at once
NAME TOKEN roles=query,read-items quota=5000 items=50
                            only these roles (`attributary.gateway.access`); calls, and additions, in 24 hours

Words after the token may come in any order.

Of signed tokens those are accepted that have an asymmetric signature by a key of a JWKS file or address, for this
audience, by this issuer, before they expire. A set at an address is fetched when the server starts, every few minutes,
and when a token names a key that is new, by a thread of its own: no call ever waits for it. Where it cannot be had, the
keys that are known hold.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.parse
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import Any, Final

import structlog

from attributary.errors import InvalidArgumentError, OverloadedError
from attributary.plain import plain
from attributary.proxy import is_loopback

from .config import GatewayConfig
from .reload import Watched, read_guarded

log = structlog.get_logger(__name__)

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
# No HMAC: a public key would pass for its secret. No "none".
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
# Three parts of base64url; decoders would pass over what is no letter of it.
_FORM: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)
_MAX_TOKEN_BYTES: Final = 8 << 10
_MAX_SET_BYTES: Final = 1 << 20
_MAX_NAME: Final = 200
_FETCH_S, _AGAIN_S, _EVERY_S = 5.0, 10.0, 300.0
_KEPT: Final = 4_096
Keys = Mapping[str, Any]


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
        now = monotonic()
        if owner.rate:
            most = max(1.0, owner.rate * _BURST_S)
            left, since = self._left.get(owner.name, (most, now))
            left = min(most, left + (now - since) * owner.rate)
            if left < 1:
                self._left[owner.name] = (left, now)
                raise OverloadedError(f"{owner.rate:g} calls a second are allowed", (1 - left) / owner.rate)
            self._left[owner.name] = (left - 1, now)
        if owner.quota:
            count, began = self._days.get(owner.name, (0, now))
            if now >= began + _DAY_S:
                count, began = 0, now
            if count >= owner.quota:
                raise OverloadedError(f"{owner.quota} calls a day are allowed", began + _DAY_S - now)
            self._days[owner.name] = (count + 1, began)


def read_owners(path: Path, field: str, roles: frozenset[str] = QUERY_ROLES) -> Mapping[bytes, Owner]:
    """Return owners by the SHA-256 digests of their tokens.

    `roles`, QUERY_ROLES or ADMIN_ROLES, are those that a line may give; with the latter each must have a name.
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
            digest, owner = _owner(line.split(), roles)
        except ValueError as error:
            raise InvalidArgumentError(field, f"line {number} of {path} {error}") from None
        if owners.setdefault(digest, owner) != owner:
            raise InvalidArgumentError(
                field,
                f"line {number} of {path} gives {owner.name} the token of {owners[digest].name}, or other limits",
            )
    if not owners:
        raise InvalidArgumentError(field, f"{path} holds no token")
    return owners


def digest_of_token(token: str) -> bytes:
    """Return what is compared and kept: the SHA-256 of a token."""
    return hashlib.sha256(token.encode("utf-8", errors="replace")).digest()


def _owner(words: list[str], roles: frozenset[str]) -> tuple[bytes, Owner]:
    named = roles == ADMIN_ROLES
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
    numbers = {setting: _positive(given, setting) for setting in ("rate", "quota", "items")}
    its_roles = frozenset(given["roles"].split(",")) if "roles" in given else _USUAL[roles]
    if not its_roles <= roles:
        raise ValueError(f"must have of the roles {', '.join(sorted(roles))} after roles=")
    return digest, Owner(name, roles=its_roles, **numbers)


def _digest(word: str) -> bytes:
    if not word.startswith(_HASHED):
        return digest_of_token(word)
    text = word[len(_HASHED) :].lower()
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"must have 64 hexadecimal digits after {_HASHED}")
    return bytes.fromhex(text)


def _positive(given: Mapping[str, str], name: str) -> Any:
    """A setting's number, whole but for a rate; 0 where it is not given."""
    whole = name != "rate"
    if name not in given:
        return 0
    try:
        value = int(given[name]) if whole else float(given[name])
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise ValueError(f"must have a {'whole ' if whole else ''}number above 0 after {name}=")
    return value


class JwtReader:
    """Turns signed tokens into callers."""

    def __init__(self, keys: Callable[[str], Keys], issuer: str, audience: str, claim: str) -> None:
        """`keys` returns the keys known now by id, given the one that is wanted; `claim` names a token's roles."""
        import jwt

        self._jwt = jwt
        self._keys, self._issuer, self._audience, self.claim = keys, issuer, audience, claim
        # What was verified a moment ago, by digest: a signature takes as long as a search.
        self._seen: OrderedDict[bytes, tuple[float, Any, Owner]] = OrderedDict()

    def owner(self, token: str) -> Owner | None:
        """Return whose token it is, None for one that is not accepted."""
        if len(token) > _MAX_TOKEN_BYTES or not _FORM.fullmatch(token):
            return None
        digest = digest_of_token(token)
        try:
            name = str(self._jwt.get_unverified_header(token).get("kid", ""))
            key = self._keys(name).get(name)
            found = self._seen.get(digest)
            if found is not None and found[0] > time() and found[1] is key:
                return found[2]
            if key is None:
                return None
            claims = self._jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            owner = self._owner(claims)
        except (self._jwt.PyJWTError, ValueError, TypeError, KeyError):
            return None
        self._seen[digest] = (float(claims["exp"]), key, owner)
        while len(self._seen) > _KEPT:
            self._seen.popitem(last=False)
        return owner

    def _owner(self, claims: Mapping[str, Any]) -> Owner:
        name = claims["sub"]
        if not isinstance(name, str) or not name or len(name) > _MAX_NAME or plain(name) != name:
            raise ValueError("no name for an audit")
        given = claims.get(self.claim) if self.claim else None
        if isinstance(given, str):
            given = given.split()
        if given is not None and not (
            isinstance(given, list) and all(isinstance(role, str) for role in given)
        ):
            raise ValueError("no list of roles")
        return Owner(name, roles=QUERY_ROLES if given is None else ALL_ROLES & frozenset(given))


def jwt_reader(config: GatewayConfig) -> JwtReader | None:
    """Return the reader that a config asks for, None if it asks for none. Raises InvalidArgumentError."""
    if not config.jwt_jwks:
        return None
    for name in ("jwt_issuer", "jwt_audience"):
        if not getattr(config, name):
            raise InvalidArgumentError(
                name, "must be given with jwt_jwks: a token that was made for another service is not accepted"
            )
    try:
        import jwt  # noqa: F401
    except ImportError:
        raise InvalidArgumentError("jwt_jwks", "needs `pip install attributary[jwt]`") from None
    if config.jwt_jwks.startswith(("https://", "http://")):
        keys: Callable[[str], Keys] = _Fetched(config.jwt_jwks).keys
    else:
        path = Path(config.jwt_jwks)
        watched = Watched(lambda: read_keys(read_guarded(path, "jwt_jwks")), [path])
        keys = lambda _: watched.value  # noqa: E731
    return JwtReader(keys, config.jwt_issuer, config.jwt_audience, config.jwt_roles_claim)


def read_keys(data: bytes) -> Keys:
    """Return the keys of a JWKS document by their ids; raises InvalidArgumentError.

    A key without an id or of a kind that is not accepted is left out.
    """
    import jwt

    try:
        entries = json.loads(data)["keys"]
        keys = {}
        for entry in entries:
            if entry.get("kid") and entry.get("kty") != "oct" and entry.get("use", "sig") == "sig":
                key = jwt.PyJWK(entry)
                if key.algorithm_name in _ALGORITHMS:
                    keys[str(entry["kid"])] = key
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, jwt.PyJWTError) as error:
        raise InvalidArgumentError("jwt_jwks", f"is no JWKS document: {type(error).__name__}") from None
    if not keys:
        raise InvalidArgumentError("jwt_jwks", "holds no public key with a kid and an asymmetric algorithm")
    return keys


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The address was checked; where it sends to was not."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER: Final = urllib.request.build_opener(_NoRedirect)


class _Fetched:
    """The keys at an address, as of the last time that they could be had."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "https" and not is_loopback(parts.netloc):
            raise InvalidArgumentError(
                "jwt_jwks", "must be https: over plain http anybody on the way could change the keys"
            )
        self._url = url
        self._keys = self._fetch()
        self._next = monotonic() + _EVERY_S
        self._earliest = monotonic() + _AGAIN_S
        self._busy = threading.Lock()

    def keys(self, wanted: str) -> Keys:
        """What is known; has them fetched if that is old, or lacks the one that is wanted."""
        now = monotonic()
        due = now >= self._next or (wanted not in self._keys and now >= self._earliest)
        if due and self._busy.acquire(blocking=False):
            self._next, self._earliest = now + _EVERY_S, now + _AGAIN_S
            threading.Thread(target=self._again, name="jwks", daemon=True).start()
        return self._keys

    def _again(self) -> None:
        try:
            self._keys = self._fetch()
        except InvalidArgumentError as error:
            log.error("signing keys cannot be fetched; those that are known hold", reason=str(error))
        finally:
            self._busy.release()

    def _fetch(self) -> Keys:
        try:
            with _OPENER.open(self._url, timeout=_FETCH_S) as reply:
                data: bytes = reply.read(_MAX_SET_BYTES + 1)
        except (OSError, ValueError) as error:
            raise InvalidArgumentError("jwt_jwks", f"cannot be fetched: {error}") from None
        if len(data) > _MAX_SET_BYTES:
            raise InvalidArgumentError("jwt_jwks", f"has more than {_MAX_SET_BYTES} bytes")
        return read_keys(data)
