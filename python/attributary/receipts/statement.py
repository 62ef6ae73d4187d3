"""What a receipt says: an in-toto statement about a picture (its answer) or about a run (its summary and its rows)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final

from attributary import __version__
from attributary.attribution.types import Attribution, Filter, PictureDigests
from attributary.bundle.manifest import Manifest

from . import strict_json

STATEMENT: Final = "https://in-toto.io/Statement/v1"
ANSWER: Final = "https://attributary.dev/attribution/v1"
RUN: Final = "https://attributary.dev/attribution-run/v1"
# Names of subjects. A file may be renamed, its bytes and its pixels are what it is.
BYTES: Final = "picture"
PIXELS: Final = "pixels"
SUMMARY: Final = "summary.json"
# Of an answer, but not about the picture.
_LEFT_OUT: Final = ("timings", "picture")


@dataclass(frozen=True, slots=True)
class QueryFacts:
    """What was asked for beside the picture, as far as the answer depends on it."""

    prompt: str = ""
    filter: Filter = field(default_factory=Filter)


def bundle_facts(manifest: Manifest) -> dict[str, Any]:
    """What a receipt says of the bundle that answered; SHA-256 in hex."""
    calibration = json.dumps(asdict(manifest.calibration), sort_keys=True, separators=(",", ":"))
    return {
        "id": manifest.bundle_id,
        "version": manifest.version,
        "manifest_sha256": manifest.digest,
        "model": manifest.subject.id,
        "model_weights_sha256": manifest.subject.weights_digest,
        "encoder_sha256": manifest.encoder.digest,
        "calibration": {
            "method": manifest.calibration.method,
            "sha256": hashlib.sha256(calibration.encode()).hexdigest(),
        },
    }


def answer_facts(answer: Attribution) -> dict[str, Any]:
    """The answer as it is told everywhere: items, creators and their shares (intervals, where there are some), rest.

    A number is written with as many digits as tell it from every other; nothing that is not known is told.
    """
    return {
        field.name: _plain(getattr(answer, field.name))
        for field in fields(answer)
        if field.name not in _LEFT_OUT
    }


def answer_statement(
    answer: Attribution, picture: PictureDigests, bundle: Mapping[str, Any], query: QueryFacts
) -> bytes:
    """Return the bytes to sign: this answer about this picture, by this bundle (`bundle_facts`)."""
    subjects = [
        {"name": name, "digest": {"sha256": digest}}
        for name, digest in ((BYTES, picture.data), (PIXELS, picture.pixels))
        if digest
    ]
    return _statement(
        subjects,
        ANSWER,
        {
            "time": now(),
            "software": f"attributary {__version__}",
            "bundle": bundle,
            "query": {
                "prompt_sha256": prompt_digest(query.prompt),
                "filter": asdict(query.filter) if query.filter else None,
            },
            "answer": answer_facts(answer),
        },
    )


def run_statement(summary: bytes, facts: Mapping[str, Any]) -> bytes:
    """Return the bytes to sign: this summary.json, and `facts` of the run's rows."""
    return _statement(
        [{"name": SUMMARY, "digest": {"sha256": hashlib.sha256(summary).hexdigest()}}],
        RUN,
        {"time": now(), "software": f"attributary {__version__}", **facts},
    )


def prompt_digest(prompt: str) -> str | None:
    """SHA-256 of a prompt's UTF-8, hex; None without one. A receipt may be shown to others, a prompt need not be."""
    return hashlib.sha256(prompt.encode()).hexdigest() if prompt else None


def now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _statement(subjects: list[dict[str, Any]], kind: str, predicate: Mapping[str, Any]) -> bytes:
    return strict_json.write(
        {"_type": STATEMENT, "subject": subjects, "predicateType": kind, "predicate": predicate}
    )


def _plain(value: Any) -> Any:
    """A value as JSON has it; of a dataclass's fields only those that are known. `asdict` would copy each twice."""
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    known = ((name, getattr(value, name)) for name in value.__dataclass_fields__)
    return {name: _plain(inner) for name, inner in known if inner not in (None, "", ())}
