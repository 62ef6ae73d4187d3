"""How every client connects: TLS, token, retries on UNAVAILABLE only."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import grpc

from attributary.errors import InvalidArgumentError
from attributary.files import read_file
from attributary.proxy import channel_options

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_STREAM_TIMEOUT_S = 3600.0
_LONGEST_S = 10**8  # three years

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "attributary.v1.AttributionService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
# A call whose message outgrows this buffer is not retried; the default of 256 KiB is less than a photograph.
_RETRY_BUFFER_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: `ca` that signed the server (None: the system's); `cert` and `key` of the client for mTLS."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files; raises InvalidArgumentError naming the one that cannot be read or holds something else."""
        if (self.cert is None) != (self.key is None):
            raise InvalidArgumentError("tls.cert", "cert and key must be given together")
        self._check()
        return grpc.ssl_channel_credentials(
            _read(self.ca, "tls.ca"), _read(self.key, "tls.key"), _read(self.cert, "tls.cert")
        )

    def _check(self) -> None:
        # gRPC would say of a damaged file that the server is away.
        context = ssl.create_default_context()
        authorities = _read(self.ca, "tls.ca")
        if authorities is not None:
            try:
                context.load_verify_locations(cadata=authorities.decode("ascii"))
            except (ssl.SSLError, ValueError) as error:
                raise InvalidArgumentError(
                    "tls.ca", f"{self.ca} holds no certificate in PEM: {error}"
                ) from None
        if self.cert is not None and self.key is not None:
            _read(self.cert, "tls.cert")
            _read(self.key, "tls.key")
            try:
                context.load_cert_chain(self.cert, self.key, password=lambda: "")
            except (ssl.SSLError, OSError) as error:
                raise InvalidArgumentError(
                    "tls.cert", f"{self.cert} is damaged, or does not belong to {self.key}: {error}"
                ) from None


class Connection:
    """One channel to one service, made by `grpc` or by `grpc.aio`."""

    def __init__(
        self,
        maker: Any,
        stub: Callable[[Any], Any],
        address: str,
        tls: Tls | None,
        token: str | None,
        timeout_s: float,
        retry: bool,
    ) -> None:
        if not isinstance(address, str) or not address or address.startswith(("http://", "https://")):
            raise InvalidArgumentError("address", f"must be the gRPC port's HOST:PORT, got {address!r}")
        self.address, self.timeout_s = address, _seconds(timeout_s)
        # Over TLS only, or inside one machine.
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        given = (
            *channel_options(address),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
            ("grpc.enable_retries", int(retry)),
            ("grpc.service_config", json.dumps(_SERVICE_CONFIG if retry else {})),
        )
        self.channel = (
            maker.insecure_channel(address, given)
            if tls is None
            else maker.secure_channel(address, tls.credentials(), given)
        )
        self._stub = stub(self.channel)

    def start(self, method: str, request: Any, timeout_s: float | None) -> Any:
        """Begin a call of the service, with the caller's trace (W3C) where the program uses OpenTelemetry."""
        metadata = self._metadata
        if "opentelemetry.trace" in sys.modules:
            from opentelemetry import propagate

            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            metadata = (*metadata, *carrier.items())
        timeout = self.timeout_s if timeout_s is None else _seconds(timeout_s)
        return getattr(self._stub, method)(request, timeout=timeout, metadata=metadata)


def _seconds(timeout: float) -> float:
    # No number and NaN are not above 0 either. Deadlines that no clock of gRPC's can show have passed at once.
    if not isinstance(timeout, Real) or not 0 < timeout <= _LONGEST_S:
        raise InvalidArgumentError(
            "timeout_s", f"must be above 0 and at most {_LONGEST_S:,} seconds, got {timeout!r}"
        )
    return float(timeout)


def _read(path: Path | None, field: str) -> bytes | None:
    return None if path is None else read_file(Path(path), field)
