"""Who may call: bearer tokens (optional) and TLS, one-sided or mutual (optional)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
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
    """Refuses calls without an accepted bearer token as UNAUTHENTICATED, before their message is read."""

    def __init__(self, digests: frozenset[bytes]) -> None:
        self._digests = digests

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Pass the call on, or put a refusal in its place."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_OPEN):
            return handler
        metadata = dict(handler_call_details.invocation_metadata or ())
        given = str(metadata.get("authorization", ""))
        # Digests are compared, so the time that a look-up takes says nothing about a token.
        if given[: len(_SCHEME)].lower() == _SCHEME and _digest(given[len(_SCHEME) :]) in self._digests:
            return handler
        return _refusal(handler)


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
