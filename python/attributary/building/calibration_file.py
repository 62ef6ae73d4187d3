"""`calibration.json`: how a student's similarities become shares, and what that was fitted to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attributary.bundle.files import write_whole
from attributary.bundle.manifest import Calibration
from attributary.bundle.parse import MisfitError, parse
from attributary.errors import InvalidArgumentError
from attributary.files import read_facts

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
        facts = {"schema_version": SCHEMA_VERSION, **_plain(self)}
        write_whole(path, (json.dumps(facts, indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> CalibrationFile:
        """Read the file; raises InvalidArgumentError naming the entry at fault."""
        try:
            made = parse(cls, read_facts(path, "calibration", SCHEMA_VERSION))
        except MisfitError as error:
            raise InvalidArgumentError("calibration", f"{path}: {error}") from None
        problem = made.calibration.problem()
        if problem or made.candidates < 1:
            problem = (
                f"calibration.{problem}" if problem else f"candidates {made.candidates}, must be at least 1"
            )
            raise InvalidArgumentError("calibration", f"{path}: {problem}")
        return made


def _plain(file: CalibrationFile) -> dict[str, Any]:
    """Plain JSON; a flag that is not there is left out."""
    facts = asdict(file)
    if not facts["calibration"]["pixels"]["mean"]:
        del facts["calibration"]["pixels"]
    return facts
