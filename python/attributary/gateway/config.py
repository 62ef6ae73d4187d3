"""Every setting of the gateway, once: the command line and the environment are read from this table.

Limits on a query (bytes, pixels, prompt, top_k, batch) are the engine's: `attributary.attribution.types`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar, cast, get_type_hints

from attributary.errors import InvalidArgumentError, check_range

Value: TypeAlias = bool | int | float | str | Path | None

ENVIRONMENT_PREFIX = "ATTRIBUTARY_"
_UI_PORT = 8080
T = TypeVar("T")


def _setting(default: T, help: str) -> T:
    """A field with the words that `attributary serve --help` has for it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Settings of one gateway process. Times are in the unit that the name ends with."""

    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 for every interface")
    port: int = _setting(50051, "port of the gRPC service; 0 picks a free one")
    metrics_port: int = _setting(9464, "port of the Prometheus page; 0 picks a free one, -1 turns it off")
    http_port: int = _setting(
        -1, "port of HTTP and JSON beside gRPC; 0 picks a free one, -1 turns it off; needs attributary[http]"
    )
    http_hosts: str = _setting(
        "",
        "names, with commas between, that HTTP answers to; default: any, or only this machine's where the "
        "server listens to this machine alone",
    )
    ui: bool = _setting(False, "a page to look at, on the port of HTTP (8080 if off)")
    ui_report: Path | None = _setting(
        None, "report.html of a run of `attributary score`, for a tab of the page"
    )
    ui_generator: Path | None = _setting(
        None, "folder of `attributary-train subject export`, for a tab that generates and attributes"
    )
    processes: int = _setting(
        1, "processes that answer on the same ports and share the mapped vectors; Linux. Limits hold in each"
    )
    max_batch: int = _setting(32, "embeddings that are searched together at most")
    max_encode_batch: int = _setting(8, "pictures that are encoded together at most; a GPU wants more")
    max_delay_ms: float = _setting(0.0, "how long an idle engine waits for a batch to fill; 0 never waits")
    encode_workers: int = _setting(
        0, "engine threads for pictures; 0 is one a core, right for encoders of one thread"
    )
    search_workers: int = _setting(1, "engine threads for embeddings, which never queue behind pictures")
    prepare_threads: int = _setting(
        0, "threads that decode, resize and tokenise for one caller; 0 is one a core. One more is for others"
    )
    decode_processes: int = _setting(
        0,
        "large or slow pictures of one caller that are decoded at once, each by its own process; 0 is one "
        "for two cores, 2 at most. One more is for others",
    )
    pinned_s: float = _setting(
        60.0, "how long a bundle that was replaced still answers those who name its id"
    )
    max_draining: int = _setting(4, "replaced bundles that are kept for that at most; each holds memory")
    bundle_root: Path | None = _setting(
        None, "folder below which LoadBundle finds bundles; default: those of the bundles served"
    )
    remote_inflight: int = _setting(
        4, "batches of one queue that are under way at once to an engine on the network"
    )
    remote_timeout_s: float = _setting(
        10.0, "how long an engine on the network may take; then it counts as away"
    )
    remote_poll_s: float = _setting(1.0, "how often an engine on the network is looked after")
    remote_follow: bool = _setting(
        True, "serve the bundle that the engine on the network serves, as it changes"
    )
    permits: int = _setting(256, "queries inside the server at once; one more is RESOURCE_EXHAUSTED")
    max_inflight_bytes: int = _setting(512 << 20, "bytes of requests inside the server at once")
    max_message_bytes: int = _setting(0, "largest gRPC message; 0 is the largest encoded picture and 1 MiB")
    single_share: float = _setting(
        0.25, "part of permits and bytes that streams and batches leave to single calls"
    )
    max_wait_s: float = _setting(0.5, "how long a call may wait to be taken; beyond it, calls are refused")
    max_streams: int = _setting(32, "streams that are open at once")
    max_connections: int = _setting(1024, "connections that are open at once")
    max_connection_calls: int = _setting(
        100, "calls at once on one connection; its client holds the others back"
    )
    max_connection_idle_s: float = _setting(300.0, "how long a connection may be without a call")
    max_connection_age_s: float = _setting(
        3600.0, "when a connection takes no new calls; what runs on it may take as long again"
    )
    receive_s: float = _setting(20.0, "how long the message of a call may take to arrive")
    call_s: float = _setting(60.0, "how long an answer may take where the caller sets no deadline")
    stream_idle_s: float = _setting(300.0, "how long a stream may neither send nor take anything")
    read_ahead: int = _setting(16, "messages of one stream that are read before their results are written")
    drain_s: float = _setting(30.0, "how long running calls may take after SIGTERM before they are cut")
    drain_notice_s: float = _setting(0.0, "how long health says NOT_SERVING before new calls are refused")
    tls_cert: Path | None = _setting(None, "PEM file of the server's certificate chain; turns TLS on")
    tls_key: Path | None = _setting(None, "PEM file of the server's private key")
    tls_client_ca: Path | None = _setting(
        None, "PEM file of the authorities that client certificates must come from"
    )
    metrics_tls: bool = _setting(False, "serve the Prometheus page over the same TLS, mutual if that is")
    tokens_file: Path | None = _setting(
        None, "file of accepted bearer tokens, one a line; # starts a comment"
    )
    admin_tokens_file: Path | None = _setting(
        None, "file of admin tokens, NAME TOKEN a line; turns the admin service on"
    )
    jwt_jwks: str = _setting(
        "",
        "JWKS file, or its https address: signed tokens (JWT) by these keys are accepted; needs "
        "attributary[jwt]",
    )
    jwt_issuer: str = _setting("", "issuer (iss) that signed tokens must name")
    jwt_audience: str = _setting("", "audience (aud) that signed tokens must name")
    jwt_roles_claim: str = _setting(
        "roles", "claim that holds a signed token's roles; without it: query, embeddings, read-items"
    )
    redact: str = _setting(
        "", "what answers hide from callers without the role read-items: of uri,caption,creator"
    )
    query_log: Path | None = _setting(None, "folder for a log of queries and their answers; off without it")
    query_log_days: int = _setting(30, "how long a day of the query log is kept")
    query_log_prompts: bool = _setting(
        False, "keep prompts in the query log; else only whether there was one"
    )
    contributed_caption_weight: float = _setting(
        0.25, "part of the way that a contribution's caption moves it from where its picture stands"
    )
    contributed_items_a_day: int = _setting(
        100, "additions of one contributor in 24 hours, unless its line has items="
    )
    writer: bool = _setting(
        True,
        "with the admin service: be the one writer of the bundles; else follow whoever is, and only load "
        "and turn bundles",
    )
    receipt_key_file: Path | None = _setting(
        None,
        "PEM file of Ed25519 keys, the first of which signs the receipts that callers ask for; needs "
        "attributary[receipts]",
    )
    max_added_items: int = _setting(
        100_000, "added items that may wait for a compaction; one by one searched"
    )
    follow_poll_s: float = _setting(
        0.5, "how often the bundle's changes by another process are looked for; 0: never"
    )
    tracing: bool = _setting(
        False, "send OpenTelemetry spans of every call; needs attributary[otel] and OTEL_* variables"
    )
    thumbnails: str = _setting(
        "callers",
        "who sees the pictures of items that a bundle may hold: callers (whoever may ask) or nobody",
    )
    reflection: bool = _setting(True, "answer gRPC server reflection")
    event_loop: str = _setting("uvloop", "uvloop or asyncio")
    log_format: str = _setting("json", "json or console")
    log_level: str = _setting("info", "debug (one line a request), info, warning or error")

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            check_range(name, getattr(self, name), least)
        for name, most in (
            ("port", 65535),
            ("metrics_port", 65535),
            ("http_port", 65535),
            ("processes", 64),
            ("pinned_s", 86_400),
        ):
            if getattr(self, name) > most:
                raise InvalidArgumentError(name, f"must be at most {most}, got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidArgumentError(
                    name, f"must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgumentError("tls_cert", "tls_cert and tls_key must be given together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise InvalidArgumentError("tls_client_ca", "needs tls_cert and tls_key")
        if self.metrics_tls and self.tls_cert is None:
            raise InvalidArgumentError("metrics_tls", "needs tls_cert and tls_key")
        if self.ui_report is not None and not self.ui:
            raise InvalidArgumentError("ui_report", "needs ui")
        if self.ui_generator is not None and not self.ui:
            raise InvalidArgumentError("ui_generator", "needs ui")
        if self.ui and self.http_port < 0:
            object.__setattr__(self, "http_port", _UI_PORT)
        if not self.contributed_caption_weight <= 1:
            raise InvalidArgumentError(
                "contributed_caption_weight", f"must be at most 1, got {self.contributed_caption_weight}"
            )
        if unknown := set(filter(None, self.redact.split(","))) - set(REDACTABLE):
            raise InvalidArgumentError(
                "redact", f"must be of {', '.join(REDACTABLE)}, got {', '.join(sorted(unknown))}"
            )
        if not self.single_share < 1:
            raise InvalidArgumentError("single_share", f"must be below 1, got {self.single_share}")


REDACTABLE = ("uri", "caption", "creator")
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
_CHOICES = {
    "thumbnails": ("callers", "nobody"),
    "event_loop": ("uvloop", "asyncio"),
    "log_format": ("json", "console"),
    "log_level": ("debug", "info", "warning", "error"),
}


class Flag(NamedTuple):
    """One setting as the command line needs it."""

    name: str  # as in GatewayConfig; --max-batch for max_batch
    variable: str  # environment variable
    kind: type  # bool, int, float, str or Path
    default: Value
    help: str


def flags() -> Iterator[Flag]:
    """Yield every setting, in the order of `GatewayConfig`."""
    hints = get_type_hints(GatewayConfig)
    for entry in fields(GatewayConfig):
        kind = hints[entry.name]
        yield Flag(
            name=entry.name,
            variable=ENVIRONMENT_PREFIX + entry.name.upper(),
            kind=kind if isinstance(kind, type) else Path,
            default=cast(Value, entry.default),
            help=entry.metadata["help"],
        )
