"""The out-of-distribution flag on pictures of other origins, without and with a prompt of the generator's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attributary.building.calibration_file import CalibrationFile
from attributary.bundle.manifest import ShareCalibration
from attributary_train.evaluation.opening import Subject
from attributary_train.evaluation.tables import aim, report
from attributary_train.subject.autoencoder import decode
from attributary_train.subject.queries import Queries
from attributary_train.subject.recipe import ADOPTED

from .foreign import Picture, flat, gradients, noise, pages, pictures_in, untrained
from .held import KINDS, Cosines, Items, StudentEncoder
from .ood import FALSE_ALARMS, SCORES, SERVED, detection
from .shares import Columns, shares_of

# What was asked for: false alarms within a point, foreign pictures caught, and what they may be paid on average.
ALARMS_WITHIN = 0.01
DETECTED = 0.95
PAID = 0.05


def compare(
    student: StudentEncoder,
    subject: Subject,
    query_file: Path,
    folders: Mapping[str, Path],
    file: CalibrationFile | None,
    *,
    count: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Set every score's threshold on validation pictures, count alarms on test pictures, detect foreign ones.

    A foreign picture with a prompt gets one of the test queries' prompts: the hardest case, since the prompt alone is
    then the generator's own. With a calibration its threshold in use is reported as well.
    """
    size = subject.recipe.image_size
    test, validation = subject.queries(query_file, "test"), subject.queries(query_file, "validation")
    sets: dict[str, list[Picture]] = {
        name: pictures_in(folder, count, size, seed) for name, folder in folders.items()
    }
    sets["noise"] = noise(count, size, seed)
    sets["flat colours"], sets["gradients"] = flat(count, size, seed), gradients(count, size, seed)
    sets["text and screens"] = pages(count, size, seed)
    if subject.recipe.name != ADOPTED:
        # Of an adopted model it is not known how one without training would begin.
        sets["untrained generator"] = untrained(subject, test, count, seed)
    alarms = float(file.measured.get("fit", {}).get("false_alarms", FALSE_ALARMS)) if file else FALSE_ALARMS
    groups = Columns.of(Items.of(student.folder.ids, subject.corpus).groups)
    results: dict[str, Any] = {}
    aims = []
    for kind in KINDS:
        cosines = {name: _ask(student, pictures, test, kind) for name, pictures in sets.items()}
        generated = _ask(student, _pictures(subject, test), test, kind)
        known = _ask(student, _pictures(subject, validation), validation, kind)
        results[kind] = detection(known, generated, cosines, alarms)
        if file is not None:
            by = file.calibration.of(kind == "image_and_prompt")
            cut = by.ood_similarity
            caught = {name: float((SCORES[SERVED](found) < cut).mean()) for name, found in cosines.items()}
            results[f"{kind}, in use"] = {
                "threshold": cut,
                "false alarms": float((SCORES[SERVED](generated) < cut).mean()),
                **caught,
            }
            paid = {name: _paid(found, groups, by, file.candidates) for name, found in cosines.items()}
            results[f"{kind}, paid to creators"] = {
                "generated": _paid(generated, groups, by, file.candidates),
                **paid,
            }
            raised = results[f"{kind}, in use"]["false alarms"]
            within = abs(raised - alarms) <= ALARMS_WITHIN
            aims.append(aim(f"false alarms, {kind}", raised, alarms, "share", within))
            for name in cosines:
                aims.append(
                    aim(f"{name} flagged, {kind}", caught[name], DETECTED, "share", caught[name] >= DETECTED)
                )
                aims.append(aim(f"{name} paid, {kind}", paid[name], PAID, "share", paid[name] <= PAID))
    config = {
        "student": student.folder.name,
        "weights": student.folder.subject.weights_digest[:12],
        "false alarms asked": alarms,
        "validation": len(validation),
        "test": len(test),
        "foreign": {name: len(found) for name, found in sets.items()},
    }
    return report("flag", config, results, aims, subject.recipe.name)


def _paid(cosines: Cosines, groups: Columns, by: ShareCalibration, candidates: int) -> float:
    """The mean part of an answer that goes to creators."""
    return float(shares_of(cosines, groups, by, candidates)[0].sum(axis=1).mean())


def _pictures(subject: Subject, queries: Queries) -> list[Picture]:
    return list(decode(subject.autoencoder, queries.latents))


def _ask(student: StudentEncoder, pictures: list[Picture], queries: Queries, kind: str) -> Cosines:
    prompts = [""] * len(pictures)
    if kind == "image_and_prompt":
        prompts = [queries.prompts[at % len(queries)] for at in range(len(pictures))]
    return np.asarray(student.cosines(pictures, prompts))
