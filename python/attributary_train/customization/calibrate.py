"""Share parameters from exemplars: fitted on the validation split, judged on the test split, written as served."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attributary.building.calibration_file import CalibrationFile
from attributary.bundle.files import sha256
from attributary.bundle.manifest import Calibration, ShareCalibration
from attributary_train.calibration.reliability import Reliability
from attributary_train.customization.gallery import Gallery, embed_gallery
from attributary_train.customization.learning import Learned
from attributary_train.customization.soft import (
    CANDIDATES,
    PLAIN,
    Queried,
    ask,
    diagram,
    fit,
    nobody_diagram,
    shares,
)
from attributary_train.customization.spaces.base import Space
from attributary_train.evaluation.tables import Row, aim, interval_row, report

METHOD = (
    "Attribution by Customization: temperature, threshold and background by least KL divergence from the exemplars "
    "that models were tuned toward, each query asked with its exemplar and without; fitted on concepts and creators "
    "that are held out"
)


@dataclass(frozen=True)
class Reading:
    """A space to calibrate, with the map over it if there is one."""

    space: Space
    learned: Learned | None = None

    def queried(self, gallery: Gallery, cache: Path | None, candidates: int) -> dict[str, Queried]:
        """Validation queries, and test queries of seen and of unseen concepts and creators."""
        embedded = embed_gallery(gallery, self.space, cache)
        embedded = embedded if self.learned is None else self.learned.apply(embedded)
        parts = {
            "validation": gallery.rows("validation"),
            "seen": gallery.rows("test", seen=True),
            "unseen": gallery.rows("test", seen=False),
        }
        return {name: ask(gallery, embedded, rows, candidates) for name, rows in parts.items() if len(rows)}


def calibrate(
    gallery: Gallery,
    picture: Reading,
    prompted: Reading | None,
    cache: Path | None,
    config: dict[str, Any],
    log: Callable[[str], None],
    candidates: int = CANDIDATES,
) -> tuple[Row, Calibration, list[tuple[str, Reliability]]]:
    """Fit queries without a prompt in `picture` and with one in `prompted`, or both in `picture` if that is None.

    Returns the report, what a bundle stores, and the panels of the reliability diagram.
    """
    kinds = {"image": picture} | ({"image_and_prompt": prompted} if prompted is not None else {})
    fitted: dict[str, ShareCalibration] = {}
    results: Row = {"fitted": [], "calibration": [], "shares": []}
    aims: list[Row] = []
    panels: list[tuple[str, Reliability]] = []
    for kind, reading in kinds.items():
        log(f"{kind}: {reading.space.name}")
        queried = reading.queried(gallery, cache, candidates)
        fitted[kind] = fit(queried["validation"])
        results["fitted"].append({"kind": kind, "space": reading.space.name, **asdict(fitted[kind])})
        for group, part in queried.items():
            before, after = diagram(part, PLAIN), diagram(part, fitted[kind])
            results["calibration"].append(
                _errors(kind, group, before, after, nobody_diagram(part, fitted[kind]))
            )
            results["shares"].append(facts := _facts(kind, group, part, fitted[kind]))
            if group == "unseen":
                aims += _aims(kind, before, after, facts)
                panels += [
                    (f"{kind}, unseen: first ten items", after),
                    (f"{kind}, unseen: nobody", nobody_diagram(part, fitted[kind])),
                ]
    made = Calibration(METHOD, fitted["image"], fitted.get("image_and_prompt", fitted["image"]))
    return report("abc-calibrate", {**config, "candidates": candidates}, results, aims), made, panels


def calibration_file(
    made: Calibration, gallery_digest: str, space: Space, subject: str, student: Path | None, content: Row
) -> CalibrationFile:
    """What `bundle build` reads beside a student; elsewhere the digests name the space instead of files."""
    identity = hashlib.sha256(space.identity.encode()).hexdigest()
    encoder, vectors = identity, identity
    if student is not None and space.name.startswith("student"):
        encoder = sha256(student / "encoder.onnx")
        stored = student / "vectors.npy"
        vectors = sha256(stored) if stored.exists() else ""
    measured = {"calibration": content["results"]["calibration"], "shares": content["results"]["shares"]}
    candidates = int(content["config"]["candidates"])
    return CalibrationFile(made, candidates, encoder, vectors, subject, gallery_digest, measured)


def _errors(kind: str, group: str, before: Reliability, after: Reliability, nobody: Reliability) -> Row:
    fitted = interval_row(after.error)
    return {
        "kind": kind,
        "split": group,
        "ECE before": interval_row(before.error)["value"],
        "ECE after": fitted["value"],
        "after low": fitted["low"],
        "after high": fitted["high"],
        "absolute before": round(before.absolute, 5),
        "absolute after": round(after.absolute, 5),
        "ECE of nobody": interval_row(nobody.error)["value"],
    }


def _facts(kind: str, group: str, part: Queried, calibration: ShareCalibration) -> Row:
    given, diffuse = shares(part, calibration)
    present = part.there
    right = (given * (part.target > 0)).sum(axis=1)
    return {
        "kind": kind,
        "split": group,
        "queries": int(present.sum()),
        "largest sum of shares": float(given.sum(axis=1).max()),
        "exact zeros": round(float((given == 0).mean()), 4),
        "queries with zeros": round(float((given == 0).any(axis=1).mean()), 4),
        "share of the exemplar, median": round(float(np.median(right[present])), 4),
        "nobody, exemplar there, median": round(float(np.median(diffuse[present])), 4),
        "nobody, exemplar away, median": round(float(np.median(diffuse[~present])), 4),
    }


def _aims(kind: str, before: Reliability, after: Reliability, facts: Row) -> list[Row]:
    least = before.error.value
    largest, zeros = facts["largest sum of shares"], facts["exact zeros"]
    return [
        aim(
            f"{kind}: ECE on unseen exemplars falls",
            after.error.value,
            least,
            "share",
            after.error.value < least,
        ),
        aim(f"{kind}: sums of shares", largest, 1, "at most", largest <= 1.0 + 1e-9),
        aim(f"{kind}: exact zeros", zeros, 0, "share of candidates, above", zeros > 0),
    ]
