"""`calibration.json`: how a student's similarities become shares, and what that was fitted to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attributary.bundle.manifest import Calibration, PixelFlag, ShareCalibration
from attributary.errors import InvalidArgumentError

SCHEMA_VERSION = 1
CALIBRATION = "calibration.json"


@dataclass(frozen=True, slots=True)
class CalibrationFile:
    """Share parameters of one student.

    `encoder_digest`, `vectors_digest`: SHA-256 of the files that the similarities came from; `subject_weights` and
    `labels_digest`: the generator, and the labels that were fitted to; `candidates`: how many items compete for shares,
    which the index of a bundle must at least return; `measured`: plain JSON, what held-out queries showed.
    """

    calibration: Calibration
    candidates: int
    encoder_digest: str
    vectors_digest: str
    subject_weights: str
    labels_digest: str
    measured: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        part = path.with_name(f".{path.name}.part")
        part.write_text(
            json.dumps({"schema_version": SCHEMA_VERSION, **_plain(self)}, indent=2) + "\n", encoding="utf-8"
        )
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> CalibrationFile:
        """Read the file; raises InvalidArgumentError naming the entry at fault."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidArgumentError("calibration", f"{path} cannot be read: {error}") from error
        if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
            found = raw.get("schema_version") if isinstance(raw, dict) else None
            raise InvalidArgumentError(
                "calibration", f"{path} has schema version {found!r}; this build reads {SCHEMA_VERSION}"
            )
        try:
            shares = raw["calibration"]
            calibration = Calibration(
                str(shares["method"]),
                _shares(shares["image"]),
                _shares(shares["image_and_prompt"]),
                _pixels(shares.get("pixels") or {}),
            )
            made = cls(
                calibration=calibration,
                candidates=int(raw["candidates"]),
                encoder_digest=str(raw["encoder_digest"]),
                vectors_digest=str(raw["vectors_digest"]),
                subject_weights=str(raw["subject_weights"]),
                labels_digest=str(raw["labels_digest"]),
                measured=dict(raw.get("measured", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgumentError("calibration", f"{path}: entry missing or wrong: {error!r}") from error
        if made.candidates < 1:
            raise InvalidArgumentError(
                "calibration", f"{path}: candidates is {made.candidates}, must be at least 1"
            )
        return made


def _plain(file: CalibrationFile) -> dict[str, Any]:
    """Plain JSON; a flag that is not there is left out."""
    told = asdict(file)
    if not told["calibration"]["pixels"]["mean"]:
        del told["calibration"]["pixels"]
    return told


def _shares(raw: Mapping[str, Any]) -> ShareCalibration:
    shares = ShareCalibration(
        **{name: float(raw[name]) for name in ("temperature", "threshold", "background", "ood_similarity")},
        diffuse_floor=float(raw.get("diffuse_floor", 0.0)),
        ood_margin=float(raw.get("ood_margin", 0.0)),
        reach=int(raw.get("reach", 0)),
        reach_cut=float(raw.get("reach_cut", 1.0)),
        reach_null=float(raw.get("reach_null", 1.0)),
        interval=tuple((float(at), float(low), float(high)) for at, low, high in raw.get("interval", ())),
    )
    if problem := shares.problem():
        raise ValueError(problem)
    return shares


def _pixels(raw: Mapping[str, Any]) -> PixelFlag:
    made = PixelFlag(
        str(raw.get("statistics", "")),
        tuple(map(float, raw.get("mean", ()))),
        tuple(tuple(map(float, row)) for row in raw.get("whiten", ())),
        float(raw.get("limit", 0.0)),
        float(raw.get("margin", 0.0)),
    )
    if problem := made.problem():
        raise ValueError(f"pixels: {problem}")
    return made
