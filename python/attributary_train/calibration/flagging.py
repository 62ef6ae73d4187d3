"""The out-of-distribution flag on pictures of other origins, without and with a prompt of the generator's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attributary.building.calibration_file import CalibrationFile
from attributary_train.evaluation.opening import Subject
from attributary_train.evaluation.tables import aim, report
from attributary_train.subject.autoencoder import decode
from attributary_train.subject.queries import Queries
from attributary_train.subject.recipe import ADOPTED

from .foreign import Picture, noise, pictures_in, untrained
from .held import KINDS, Cosines, StudentEncoder
from .ood import FALSE_ALARMS, SCORES, SERVED, detection


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
    if subject.recipe.name != ADOPTED:
        # Of an adopted model it is not known how one without training would begin.
        sets["untrained generator"] = untrained(subject, test, count, seed)
    alarms = float(file.measured.get("fit", {}).get("false_alarms", FALSE_ALARMS)) if file else FALSE_ALARMS
    results: dict[str, Any] = {}
    aims = []
    for kind in KINDS:
        cosines = {name: _ask(student, pictures, test, kind) for name, pictures in sets.items()}
        generated = _ask(student, _pictures(subject, test), test, kind)
        known = _ask(student, _pictures(subject, validation), validation, kind)
        results[kind] = detection(known, generated, cosines, alarms)
        if file is not None:
            cut = file.calibration.of(kind == "image_and_prompt").ood_similarity
            results[f"{kind}, in use"] = {
                "threshold": cut,
                "false alarms": float((SCORES[SERVED](generated) < cut).mean()),
                **{name: float((SCORES[SERVED](found) < cut).mean()) for name, found in cosines.items()},
            }
        served = next(row for row in results[kind] if row["score"] == SERVED)
        aims.append(
            aim(
                f"false alarms, {kind}",
                served["false alarms"],
                alarms,
                "share",
                served["false alarms"] <= alarms,
            )
        )
    config = {
        "student": student.folder.name,
        "weights": student.folder.subject.weights_digest[:12],
        "false alarms asked": alarms,
        "validation": len(validation),
        "test": len(test),
        "foreign": {name: len(found) for name, found in sets.items()},
    }
    return report("flag", config, results, aims, subject.recipe.name)


def _pictures(subject: Subject, queries: Queries) -> list[Picture]:
    return list(decode(subject.autoencoder, queries.latents))


def _ask(student: StudentEncoder, pictures: list[Picture], queries: Queries, kind: str) -> Cosines:
    prompts = [""] * len(pictures)
    if kind == "image_and_prompt":
        prompts = [queries.prompts[at % len(queries)] for at in range(len(pictures))]
    return np.asarray(student.cosines(pictures, prompts))
