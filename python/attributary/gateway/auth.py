"""TLS, one-sided or mutual, and what a call brings to say who it is from. Who may do what is in `access.py`."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc

from attributary.errors import InvalidArgumentError

from .config import GatewayConfig
from .reload import Watched, read_guarded


def presented(context: grpc.aio.ServicerContext[bytes, bytes]) -> tuple[str, str]:
    """What a call brings: its authorization header, and the name in its client's certificate; empty where nothing."""
    metadata: Any = context.invocation_metadata() or ()
    authorization = ""
    for key, value in metadata:
        if key == "authorization":
            authorization = str(value)
    names = context.auth_context().get("x509_common_name") or ()
    name = next((f"certificate {name.decode(errors='replace')}" for name in names), "")
    return authorization, name


def tls_files(config: GatewayConfig) -> list[Path]:
    """The files that TLS is made of."""
    return [path for path in (config.tls_cert, config.tls_key, config.tls_client_ca) if path is not None]


def server_credentials(config: GatewayConfig) -> grpc.ServerCredentials | None:
    """Return TLS credentials that follow their files, None where TLS is off; raises InvalidArgumentError."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    certificate, key, authority = config.tls_cert, config.tls_key, config.tls_client_ca

    def read() -> grpc.ServerCertificateConfiguration:
        # gRPC would find damage only when somebody connects.
        server_context(config)
        authorities = None if authority is None else read_guarded(authority, "tls_client_ca")
        pair = (read_guarded(key, "tls_key"), read_guarded(certificate, "tls_cert"))
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)

    watched = Watched(read, tls_files(config))
    given = watched.value

    def newer() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        before, given = given, watched.value
        return None if given is before else given

    # The stubs do not know that None means "as before".
    return grpc.dynamic_ssl_server_credentials(given, newer, authority is not None)  # type: ignore[arg-type]


def server_context(config: GatewayConfig) -> ssl.SSLContext | None:
    """Return the same TLS for a plain socket, None where it is off; raises InvalidArgumentError."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    key = read_guarded(config.tls_key, "tls_key")
    chain = read_guarded(config.tls_cert, "tls_cert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, data, words in (("tls_cert", chain, b"CERTIFICATE"), ("tls_key", key, b"PRIVATE KEY")):
        if b"-----BEGIN" not in data or words not in data:
            raise InvalidArgumentError(name, f"holds no PEM block of a {words.decode().lower()}")
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgumentError(
            "tls_cert", f"is damaged, or does not belong to tls_key: {error}"
        ) from None
    if config.tls_client_ca is not None:
        authorities = read_guarded(config.tls_client_ca, "tls_client_ca")
        try:
            context.load_verify_locations(cadata=authorities.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise InvalidArgumentError("tls_client_ca", f"holds no certificate in PEM: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context
