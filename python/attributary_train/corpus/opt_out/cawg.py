"""The training and data mining assertion of the CAWG (before: of C2PA) in a picture's Content Credentials."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, Final

from PIL import Image

from attributary_train.corpus.opt_out.signal import Means, Signal

try:
    import c2pa
except ImportError:
    c2pa = None

LABELS: Final = ("cawg.training-mining", "c2pa.training-mining")
# Uses that training is; inference and search are others.
_USES: Final = ("ai_training", "ai_generative_training", "data_mining")
_MEANS: Final[dict[str, Means]] = {
    "notAllowed": "reserved",
    "constrained": "conditional",
    "allowed": "allowed",
}
_STRICTEST: Final[tuple[Means, ...]] = ("reserved", "conditional", "unreadable", "allowed", "unspecified")
# Nothing is fetched: what a picture names elsewhere is not in it.
_SETTINGS: Final = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False}}


def available() -> bool:
    """Whether Content Credentials can be read here: `pip install attributary[c2pa]`."""
    return c2pa is not None


def training_mining(picture: bytes, source: str, sha256: str) -> list[Signal]:
    """Return what the active manifest of a picture says of training; none where there are no Content Credentials."""
    # JUMBF boxes are named so in every format.
    if c2pa is None or b"jumb" not in picture:
        return []
    try:
        with Image.open(io.BytesIO(picture)) as image:
            # MPO is a JPEG with more behind it, as phones write them.
            kind = Image.MIME.get("JPEG" if image.format == "MPO" else image.format or "", "")
        with (
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Reader(kind, io.BytesIO(picture), context=context) as reader,
        ):
            found = list(_found(json.loads(reader.json())))
    except Exception as error:  # the library's own kinds, and whatever a damaged file makes of it
        if "ManifestNotFound" in f"{type(error).__name__} {error}":
            return []
        return [
            Signal("cawg", "unreadable", f"Content Credentials cannot be read: {error}"[:200], source, sha256)
        ]
    return [Signal("cawg", means, value, source, sha256) for means, value in found]


def _found(manifest: dict[str, Any]) -> Iterator[tuple[Means, str]]:
    active = manifest.get("manifests", {}).get(manifest.get("active_manifest"), {})
    for assertion in active.get("assertions", []):
        if str(assertion.get("label", "")).partition("__")[0] not in LABELS:
            continue
        entries = (assertion.get("data") or {}).get("entries") or {}
        uses = {
            name: entry.get("use") if isinstance(entry, dict) else None
            for name, entry in entries.items()
            if name.rpartition(".")[2] in _USES
        }
        means: list[Means] = [_MEANS.get(str(use), "unreadable") for use in uses.values()]
        strictest: Means = next((one for one in _STRICTEST if one in means), "unspecified")
        yield strictest, json.dumps(uses, sort_keys=True)[:200]
