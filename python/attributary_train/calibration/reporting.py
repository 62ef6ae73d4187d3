"""The report that `calibrate report` prints, and what of it goes into the calibration for bundles to carry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from attributary.building.calibration_file import CalibrationFile
from attributary.building.student import StudentFolder
from attributary_train.errors import CalibrationError
from attributary_train.evaluation.shares import shares_of
from attributary_train.evaluation.tables import report

from .agreement import CANDIDATES, OUTSIDE, QueryAgreement, agree_on, summarise
from .held import KINDS, Held
from .mass import LEVEL, stand_for, teacher_mass
from .report import PANELS, aims, measure
from .skill import Climatology

# Queries come with a prompt where they come from a generator's own log: that is what an audit compares with.
_AUDITED = "image_and_prompt"


def full_report(
    folder: StudentFolder, held: Held, file: CalibrationFile, split: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report, and its short form for the calibration. Raises `CalibrationError` if the file is another student's,
    or was fitted to these very labels.
    """
    for what, of_file, of_folder in (
        ("encoder", file.encoder_digest, folder.encoder_digest),
        ("vectors", file.vectors_digest, folder.vectors_digest),
    ):
        if of_file != of_folder:
            raise CalibrationError(
                "calibration", f"was fitted with {what} {of_file[:12]}, the student has {of_folder[:12]}"
            )
    if file.labels_digest == held.labels_digest:
        raise CalibrationError("labels", "are those that the calibration was fitted to; report on others")
    fitted = file.measured.get("fit", {})
    constants = fitted.get("climatology", {})
    climatologies = {kind: Climatology.read(constants.get(kind)) for kind in KINDS}
    results = measure(held, file.calibration, file.candidates, climatologies, fitted)
    agreement = {kind: summarise(agreement_rows(held, kind, file)) for kind in KINDS}
    config = {
        "student": folder.name,
        "student digest": folder.digest[:12],
        "weights": folder.subject.weights_digest[:12],
        "labels": held.labels_digest[:12],
        "split": split,
        "queries": len(held.queries),
        "failed": held.failed,
        "items": len(held.items.ids),
        "candidates": file.candidates,
        "method": file.calibration.method,
    }
    content = report(
        "calibration", config, {**results, "agreement": agreement}, aims(results), folder.subject.id
    )
    measured = {
        "split": split,
        "queries": len(held.queries),
        "labels_digest": held.labels_digest,
        "agreement": agreement[_AUDITED],
        "skill": {
            kind: {
                name: {figure: row[figure] for figure in ("skill", "low", "high")}
                for name, row in results[kind]["skill"].items()
                if "skill" in row
            }
            for kind in KINDS
        },
        "expected_calibration_error": {
            kind: results[kind]["reliability"][PANELS[0]]["expected calibration error"]["value"]
            for kind in KINDS
        },
    }
    return content, measured


def agreement_rows(held: Held, kind: str, file: CalibrationFile) -> list[QueryAgreement]:
    """What an audit of the held-out queries would find, a row a query.

    As there, the teacher's word counts on the candidates and on random others alone: more others hold more that was
    missed, and an audit beside such figures would look better than it is.
    """
    cosines = held.similarity[kind]
    by = file.calibration.of(kind == _AUDITED)
    pixels = file.calibration.pixels
    known = pixels.certainty(held.statistics) if pixels else None
    predicted, diffuse = shares_of(cosines, held.grouped, by, file.candidates, known)
    level = float(file.measured.get("fit", {}).get("level", LEVEL))
    count = min(CANDIDATES, cosines.shape[1])
    rows = []
    for at in range(len(cosines)):
        order = np.argsort(-cosines[at], kind="stable")
        served = order[:count]
        rest = np.random.default_rng(at).permutation(np.sort(order[count:]))[:OUTSIDE]
        ranks = np.concatenate([served, rest])
        scores = held.scores[at, ranks]
        mass = teacher_mass(
            scores, stand_for(len(ranks), count, cosines.shape[1]), held.items.groups[ranks], level=level
        )
        rows.append(
            agree_on(
                cosines[at, served],
                predicted[at, served],
                float(diffuse[at]),
                scores[:count],
                mass.items[:count],
                mass.diffuse,
                scores[count:],
            )
        )
    return rows


def recorded(file: CalibrationFile, measured: dict[str, Any]) -> CalibrationFile:
    """The calibration with what held-out queries showed."""
    return replace(file, measured={**file.measured, "held_out": measured})
