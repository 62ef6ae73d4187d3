"""Who may call: bearer tokens (optional) and TLS, one-sided or mutual (optional)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from grpc import aio

from attributary.errors import InvalidArgumentError

from .config import GatewayConfig

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_SCHEME = "bearer "
# Probes of an orchestrator carry no token and learn nothing but "up" or "down".
_OPEN = ("/grpc.health.v1.Health/",)
_ADMIN = "/attributary.v1.AdminService/"


def read_tokens(path: Path) -> frozenset[bytes]:
    """Read the SHA-256 digests of the tokens in a file, one token a line; raises InvalidArgumentError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError("tokens_file", f"cannot be read: {error}") from None
    tokens = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not tokens:
        raise InvalidArgumentError("tokens_file", f"{path} holds no token")
    return frozenset(_digest(token) for token in tokens)


def read_admin_tokens(path: Path) -> dict[bytes, str]:
    """Read a file of admin tokens, NAME TOKEN a line; return names by SHA-256 digest. Raises InvalidArgumentError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError("admin_tokens_file", f"cannot be read: {error}") from None
    names: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise InvalidArgumentError("admin_tokens_file", f"line {number} of {path} must be: NAME TOKEN")
        names[_digest(words[1])] = words[0]
    if not names:
        raise InvalidArgumentError("admin_tokens_file", f"{path} holds no token")
    return names


def server_credentials(config: GatewayConfig) -> grpc.ServerCredentials | None:
    """Return TLS credentials, None where TLS is off; raises InvalidArgumentError naming the file."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    chain, key = _read(config.tls_cert, "tls_cert"), _read(config.tls_key, "tls_key")
    authorities = _read(config.tls_client_ca, "tls_client_ca") if config.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(key, chain)], root_certificates=authorities, require_client_auth=authorities is not None
    )


class TokenInterceptor(aio.ServerInterceptor):
    """Refuses calls without an accepted bearer token as UNAUTHENTICATED, before their message is read.

    Queries and administration have tokens of their own; neither opens the other. `queries` None lets every query in.
    """

    def __init__(self, queries: frozenset[bytes] | None, admins: Mapping[bytes, str]) -> None:
        self._queries = queries
        self._admins = admins

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Pass the call on, or put a refusal in its place."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_OPEN):
            return handler
        digest = digest_of(handler_call_details.invocation_metadata)
        if handler_call_details.method.startswith(_ADMIN):
            allowed = digest in self._admins
        else:
            allowed = self._queries is None or digest in self._queries
        return handler if allowed else _refusal(handler)


def digest_of(metadata: Any) -> bytes:
    """Return the SHA-256 of a call's bearer token, empty without one.

    Digests are compared, so the time that a look-up takes says nothing about a token.
    """
    given = str(dict(metadata or ()).get("authorization", ""))
    return _digest(given[len(_SCHEME) :]) if given[: len(_SCHEME)].lower() == _SCHEME else b""


def _refusal(handler: Handler) -> Handler:
    async def refuse(_request: object, context: aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is needed")

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(refuse)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", errors="replace")).digest()


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(name, f"cannot be read: {error}") from None
