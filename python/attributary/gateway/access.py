"""Who is calling, and what they may do: one function for every transport, which knows none.

A caller brings a bearer token, one of a file or a signed one (JWT), or a certificate, or nothing. What it may do are
its roles:

    query       ask with pictures
    embeddings  ask with embeddings: somebody who can choose these can choose the answer
    read-items  see items and creators as they are, page through them
    contribute  add items, within limits, and have copies and newcomers looked at first (`attributary.delta.entry`)
    admin       change bundles, and everything above
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from attributary.errors import PermissionDeniedError, UnauthenticatedError

from .config import GatewayConfig
from .reload import Watched
from .tokens import (
    ADMIN_ROLES,
    QUERY_ROLES,
    Owner,
    Rates,
    digest_of_token,
    jwt_reader,
    read_owners,
)

Role: TypeAlias = Literal["query", "embeddings", "read-items", "contribute", "admin"]
# "any" asks for a caller who is known, whatever it may do; "open" for nobody: probes learn nothing but "up" or "down".
Need: TypeAlias = Role | Literal["any", "open"]

_SCHEME: Final = "bearer "
_ADMIN: Final = frozenset({"contribute", "admin"})


class Gate:
    """Lets callers in. Used from the event loop only."""

    def __init__(self, config: GatewayConfig) -> None:
        """Read the files that the config names; raises InvalidArgumentError."""
        self._queries = _watched(config.tokens_file, "tokens_file", QUERY_ROLES)
        self._admins = _watched(config.admin_tokens_file, "admin_tokens_file", ADMIN_ROLES)
        self._jwt = jwt_reader(config)
        self._rates = Rates()

    @property
    def has_admins(self) -> bool:
        """Whether anybody may change bundles."""
        return self._admins is not None or (self._jwt is not None and self._jwt.claim != "")

    def admit(self, need: Need, authorization: str = "", certificate: str = "") -> Owner:
        """Return who is calling; `authorization` is the header of that name, `certificate` the name in a client's.

        Where nothing is asked of callers (no tokens, no JWT) everybody may query. Raises UnauthenticatedError,
        PermissionDeniedError naming the role that is missing, and OverloadedError for one who has asked too often.
        """
        owner = self.look(need, authorization, certificate)
        self._rates.take(owner)
        return owner

    def look(self, need: Need, authorization: str = "", certificate: str = "") -> Owner:
        """Return who is calling, as `admit`, without counting a call: for one that goes on."""
        if need == "open":
            return Owner(certificate)
        owner = self._known(authorization, need in _ADMIN)
        if owner is None:
            if need in _ADMIN or self._queries is not None or self._jwt is not None:
                raise UnauthenticatedError
            return Owner(certificate)
        if need != "any":
            check_role(owner, need)
        return owner

    def _known(self, authorization: str, admin: bool) -> Owner | None:
        """The owner of a token. Digests are compared, so the time that it takes says nothing about a token."""
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        token = authorization[len(_SCHEME) :]
        watched = self._admins if admin else self._queries
        owner = watched.value.get(digest_of_token(token)) if watched is not None else None
        if owner is None and self._jwt is not None:
            owner = self._jwt.owner(token)
        return owner


def _watched(path: Path | None, field: str, roles: frozenset[str]) -> Watched[Mapping[bytes, Owner]] | None:
    return None if path is None else Watched(lambda: read_owners(path, field, roles), [path])


def check_role(owner: Owner, role: str) -> None:
    """Raise PermissionDeniedError unless somebody has a role, or is admin."""
    if not owner.may(role):
        raise PermissionDeniedError(role)
