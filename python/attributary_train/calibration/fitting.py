"""From held-out queries to `calibration.json`: both kinds of query, and the flag's threshold."""

from __future__ import annotations

from attributary.building.calibration_file import CalibrationFile
from attributary.building.student import StudentFolder
from attributary.bundle.manifest import Calibration

from .fit import LIKELY, Fitted, fit_shares
from .held import KINDS, Held
from .ood import FALSE_ALARMS, SCORES, SERVED, margin, threshold
from .skill import Climatology

MOST_CANDIDATES = 2_000


def fit_file(
    folder: StudentFolder,
    held: Held,
    *,
    split: str,
    level: float,
    candidates: int | None = None,
    false_alarms: float = FALSE_ALARMS,
) -> tuple[CalibrationFile, dict[str, Fitted]]:
    """Fit both kinds of query to the teacher's mass of `held`; returns the file, and what was fitted by kind."""
    most = len(held.items.ids)
    count = min(candidates or MOST_CANDIDATES, most)
    found, constants = {}, {}
    for kind in KINDS:
        cosines = held.similarity[kind]
        scores = SCORES[SERVED](cosines)
        found[kind] = fit_shares(
            cosines,
            held.grouped,
            held.target,
            creators=held.creator_of_item,
            candidates=count,
            ood_similarity=threshold(scores, false_alarms),
            ood_margin=margin(scores, false_alarms),
        )
        reach = found[kind].calibration.reach
        constants[kind] = Climatology.of(cosines, held.grouped, held.target, reach).as_json()
    method = (
        f"log loss of the teacher's mass, by item and by creator, on {len(held.queries)} {split} queries; an item has "
        f"mass where its score is {level:g} spreads above the median, and as many are named as have mass with a chance "
        f"of {LIKELY:g}; out of distribution is below the {SERVED} that {false_alarms:.0%} of those queries fall below"
    )
    fit = {
        "split": split,
        "queries": len(held.queries),
        "level": level,
        "false_alarms": false_alarms,
        "loss": {kind: one.loss for kind, one in found.items()},
        "hidden": {kind: one.hidden for kind, one in found.items()},
        "climatology": constants,
    }
    made = CalibrationFile(
        Calibration(method, found["image"].calibration, found["image_and_prompt"].calibration),
        candidates=count,
        encoder_digest=folder.encoder_digest,
        vectors_digest=folder.vectors_digest,
        subject_weights=folder.subject.weights_digest,
        labels_digest=held.labels_digest,
        measured={"fit": fit},
    )
    return made, found
