"""Every setting of the gateway, once: the command line and the environment are read from this table.

Limits on a query (bytes, pixels, prompt, top_k, batch) are the engine's: `attributary.attribution.types`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from attributary.errors import InvalidArgumentError, check_range

ENVIRONMENT_PREFIX = "ATTRIBUTARY_"
DEFAULT_ALIAS: Final = "default"
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BUNDLE_ID = re.compile(r"[0-9a-f]{16}")
_UI_PORT = 8080


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Settings of one gateway process. Times are in the unit that the name ends with."""

    host: Annotated[str, "address to listen on; 0.0.0.0 for every interface"] = "127.0.0.1"
    port: Annotated[int, "port of the gRPC service; 0 picks a free one"] = 50051
    metrics_port: Annotated[int, "port of the Prometheus page; 0 picks a free one, -1 turns it off"] = 9464
    http_port: Annotated[
        int, "port of HTTP and JSON beside gRPC; 0 picks a free one, -1 turns it off; needs attributary[http]"
    ] = -1
    http_hosts: Annotated[
        str,
        "names, with commas between, that HTTP answers to; default: any, or only this machine's where the "
        "server listens to this machine alone",
    ] = ""
    ui: Annotated[bool, "a page to look at, on the port of HTTP (8080 if off)"] = False
    ui_report: Annotated[
        Path | None, "report.html of a run of `attributary score`, for a tab of the page"
    ] = None
    ui_generator: Annotated[
        Path | None, "folder of `attributary-train subject export`, for a tab that generates and attributes"
    ] = None
    processes: Annotated[
        int,
        "processes that answer on the same ports and share the mapped vectors; Linux. Limits hold in each",
    ] = 1
    max_batch: Annotated[int, "embeddings that are searched together at most"] = 32
    max_encode_batch: Annotated[int, "pictures that are encoded together at most; a GPU wants more"] = 8
    max_delay_ms: Annotated[float, "how long an idle engine waits for a batch to fill; 0 never waits"] = 0.0
    encode_workers: Annotated[
        int, "engine threads for pictures; 0 is one a core, right for encoders of one thread"
    ] = 0
    search_workers: Annotated[int, "engine threads for embeddings, which never queue behind pictures"] = 1
    prepare_threads: Annotated[
        int,
        "threads that decode, resize and tokenise for one caller; 0 is one a core. One more is for others",
    ] = 0
    decode_processes: Annotated[
        int,
        "large or slow pictures of one caller that are decoded at once, each by its own process; 0 is one "
        "for two cores, 2 at most. One more is for others",
    ] = 0
    pinned_s: Annotated[float, "how long a bundle that was replaced still answers those who name its id"] = (
        60.0
    )
    max_draining: Annotated[int, "replaced bundles that are kept for that at most; each holds memory"] = 4
    bundle_root: Annotated[
        Path | None, "folder below which LoadBundle finds bundles; default: those of the bundles served"
    ] = None
    remote_inflight: Annotated[
        int, "batches of one queue that are under way at once to an engine on the network"
    ] = 4
    remote_timeout_s: Annotated[
        float, "how long an engine on the network may take; then it counts as away"
    ] = 10.0
    remote_poll_s: Annotated[float, "how often an engine on the network is looked after"] = 1.0
    remote_follow: Annotated[
        bool, "serve the bundle that the engine on the network serves, as it changes"
    ] = True
    permits: Annotated[int, "queries inside the server at once; one more is RESOURCE_EXHAUSTED"] = 256
    max_inflight_bytes: Annotated[int, "bytes of requests inside the server at once"] = 512 << 20
    max_message_bytes: Annotated[int, "largest gRPC message; 0 is the largest encoded picture and 1 MiB"] = 0
    single_share: Annotated[
        float, "part of permits and bytes that streams and batches leave to single calls"
    ] = 0.25
    max_wait_s: Annotated[float, "how long a call may wait to be taken; beyond it, calls are refused"] = 0.5
    max_streams: Annotated[int, "streams that are open at once"] = 32
    max_connections: Annotated[int, "connections that are open at once"] = 1024
    max_connection_calls: Annotated[
        int, "calls at once on one connection; its client holds the others back"
    ] = 100
    max_connection_idle_s: Annotated[float, "how long a connection may be without a call"] = 300.0
    max_connection_age_s: Annotated[
        float, "when a connection takes no new calls; what runs on it may take as long again"
    ] = 3600.0
    receive_s: Annotated[float, "how long the message of a call may take to arrive"] = 20.0
    call_s: Annotated[float, "how long an answer may take where the caller sets no deadline"] = 60.0
    stream_idle_s: Annotated[float, "how long a stream may neither send nor take anything"] = 300.0
    read_ahead: Annotated[int, "messages of one stream that are read before their results are written"] = 16
    drain_s: Annotated[float, "how long running calls may take after SIGTERM before they are cut"] = 30.0
    drain_notice_s: Annotated[float, "how long health says NOT_SERVING before new calls are refused"] = 0.0
    tls_cert: Annotated[Path | None, "PEM file of the server's certificate chain; turns TLS on"] = None
    tls_key: Annotated[Path | None, "PEM file of the server's private key"] = None
    tls_client_ca: Annotated[
        Path | None, "PEM file of the authorities that client certificates must come from"
    ] = None
    metrics_tls: Annotated[bool, "serve the Prometheus page over the same TLS, mutual if that is"] = False
    tokens_file: Annotated[Path | None, "file of accepted bearer tokens, one a line; # starts a comment"] = (
        None
    )
    admin_tokens_file: Annotated[
        Path | None, "file of admin tokens, NAME TOKEN a line; turns the admin service on"
    ] = None
    jwt_jwks: Annotated[
        str,
        "JWKS file, or its https address: signed tokens (JWT) by these keys are accepted; needs "
        "attributary[jwt]",
    ] = ""
    jwt_issuer: Annotated[str, "issuer (iss) that signed tokens must name"] = ""
    jwt_audience: Annotated[str, "audience (aud) that signed tokens must name"] = ""
    jwt_roles_claim: Annotated[
        str, "claim that holds a signed token's roles; without it: query, embeddings, read-items"
    ] = "roles"
    redact: Annotated[
        str, "what answers hide from callers without the role read-items: of uri,caption,creator"
    ] = ""
    query_log: Annotated[Path | None, "folder for a log of queries and their answers; off without it"] = None
    query_log_days: Annotated[int, "how long a day of the query log is kept"] = 30
    query_log_prompts: Annotated[bool, "keep prompts in the query log; else only whether there was one"] = (
        False
    )
    contributed_caption_weight: Annotated[
        float, "part of the way that a contribution's caption moves it from where its picture stands"
    ] = 0.25
    contributed_items_a_day: Annotated[
        int, "additions of one contributor in 24 hours, unless its line has items="
    ] = 100
    writer: Annotated[
        bool,
        "with the admin service: be the one writer of the bundles; else follow whoever is, and only load "
        "and turn bundles",
    ] = True
    receipt_key_file: Annotated[
        Path | None,
        "PEM file of Ed25519 keys, the first of which signs the receipts that callers ask for; needs "
        "attributary[receipts]",
    ] = None
    max_added_items: Annotated[int, "added items that may wait for a compaction; one by one searched"] = (
        100_000
    )
    follow_poll_s: Annotated[
        float, "how often the bundle's changes by another process are looked for; 0: never"
    ] = 0.5
    tracing: Annotated[
        bool, "send OpenTelemetry spans of every call; needs attributary[otel] and OTEL_* variables"
    ] = False
    thumbnails: Annotated[
        str, "who sees the pictures of items that a bundle may hold: callers (whoever may ask) or nobody"
    ] = "callers"
    reflection: Annotated[bool, "answer gRPC server reflection"] = True
    event_loop: Annotated[str, "uvloop or asyncio"] = "uvloop"
    log_format: Annotated[str, "json or console"] = "json"
    log_level: Annotated[str, "debug (one line a request), info, warning or error"] = "info"

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            check_range(name, getattr(self, name), least)
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise InvalidArgumentError(name, f"must be at most {most}, got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidArgumentError(
                    name, f"must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgumentError("tls_cert", "tls_cert and tls_key must be given together")
        for name, needed in _NEEDS.items():
            if getattr(self, name) and not getattr(self, needed.split()[0]):
                raise InvalidArgumentError(name, f"needs {needed}")
        if self.ui and self.http_port < 0:
            object.__setattr__(self, "http_port", _UI_PORT)
        if unknown := set(filter(None, self.redact.split(","))) - set(REDACTABLE):
            raise InvalidArgumentError(
                "redact", f"must be of {', '.join(REDACTABLE)}, got {', '.join(sorted(unknown))}"
            )
        if not self.single_share < 1:
            raise InvalidArgumentError("single_share", f"must be below 1, got {self.single_share}")


REDACTABLE = ("uri", "caption", "creator")
MAX_INT = 2**31 - 1
_LEAST: dict[str, float] = {
    "processes": 1, "port": 0, "metrics_port": -1, "http_port": -1, "max_batch": 1, "max_encode_batch": 1,
    "max_delay_ms": 0,
    "encode_workers": 0, "prepare_threads": 0, "decode_processes": 0, "pinned_s": 0, "max_draining": 0,
    "search_workers": 1, "permits": 1, "max_inflight_bytes": 1, "max_message_bytes": 0,
    "read_ahead": 1, "remote_inflight": 1, "remote_timeout_s": 0.001, "remote_poll_s": 0.01,
    "drain_s": 0, "drain_notice_s": 0, "max_added_items": 1, "follow_poll_s": 0, "single_share": 0,
    "max_streams": 1, "max_connections": 1, "max_connection_calls": 1, "max_connection_idle_s": 1,
    "query_log_days": 1, "contributed_caption_weight": 0, "contributed_items_a_day": 1,
    "max_connection_age_s": 1, "receive_s": 0.1, "max_wait_s": 0.001, "call_s": 0.1, "stream_idle_s": 0.1,
}  # fmt: skip
_MOST: dict[str, float] = {
    "port": 65535, "metrics_port": 65535, "http_port": 65535, "processes": 64, "pinned_s": 86_400,
    "contributed_caption_weight": 1,
    # gRPC counts in 32 bits, connections' times in milliseconds.
    "max_message_bytes": MAX_INT, "max_connections": MAX_INT, "max_connection_calls": MAX_INT,
    "max_connection_idle_s": MAX_INT // 1_000, "max_connection_age_s": MAX_INT // 1_000,
}  # fmt: skip
_NEEDS = {
    "tls_client_ca": "tls_cert and tls_key", "metrics_tls": "tls_cert and tls_key",
    "ui_report": "ui", "ui_generator": "ui",
}  # fmt: skip
_CHOICES = {
    "thumbnails": ("callers", "nobody"),
    "event_loop": ("uvloop", "asyncio"),
    "log_format": ("json", "console"),
    "log_level": ("debug", "info", "warning", "error"),
}


def check_alias(alias: str) -> None:
    """Raise InvalidArgumentError for what cannot be an alias; a bundle's id cannot, or requests would be ambiguous."""
    if not _ALIAS.fullmatch(alias) or _BUNDLE_ID.fullmatch(alias):
        raise InvalidArgumentError(
            "alias",
            "must be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit, and no bundle's id; "
            f"got {alias[:80]!r}",
        )
