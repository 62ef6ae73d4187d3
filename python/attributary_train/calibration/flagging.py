"""The out-of-distribution flag on pictures of other origins, without and with a prompt of the generator's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attributary.building.calibration_file import CalibrationFile
from attributary_train.evaluation.opening import Subject
from attributary_train.evaluation.shares import Columns, shares_of
from attributary_train.evaluation.tables import report
from attributary_train.generators.latents import decode
from attributary_train.subject.queries import Queries
from attributary_train.subject.recipe import ADOPTED

from .beside import share_aim
from .embedding_scores import embedding_detection
from .foreign import Picture, climbed, flat, gradients, noise, pages, pictures_in, untrained
from .held import KINDS, Cosines, Items, StudentEncoder, generated_only
from .left_out import left_out
from .ood import FALSE_ALARMS, SCORES, SERVED, detection

# What was asked for: false alarms within a point, foreign pictures caught, and what they may be paid on average.
ALARMS_WITHIN = 0.01
DETECTED = 0.95
PAID = 0.05
GENERATED = "generated"


def compare(
    student: StudentEncoder,
    subject: Subject,
    query_file: Path,
    folders: Mapping[str, Path],
    file: CalibrationFile | None,
    *,
    generated: Path | None = None,
    count: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Set every cosine score's threshold on validation pictures, count alarms on test pictures, detect foreign ones.

    A foreign picture with a prompt gets one of the test queries' prompts: the hardest case, since the prompt alone is
    then the generator's own. With a calibration the flag in use is reported as well, and aims are judged by it.
    `generated`: the file of the validation pictures, by default `query_file`.
    """
    test = generated_only(subject.queries(query_file, "test"))
    validation = generated_only(subject.queries(generated or query_file, "validation"))
    sets = _foreign(student, subject, test, folders, count, seed)
    made, known = _pictures(subject, test), _pictures(subject, validation)
    statistics = {name: student.statistics(pictures) for name, pictures in {GENERATED: made, **sets}.items()}
    alarms = float(file.measured.get("fit", {}).get("false_alarms", FALSE_ALARMS)) if file else FALSE_ALARMS
    groups = Columns.of(Items.of(student.folder.ids, subject.corpus).groups)
    results: dict[str, Any] = {}
    aims: list[dict[str, Any]] = []
    for kind in KINDS:
        answered = {name: _ask(student, pictures, test, kind) for name, pictures in sets.items()}
        inside, outside = _ask(student, known, validation, kind), _ask(student, made, test, kind)
        cosines = {name: student.with_items(one) for name, one in {GENERATED: outside, **answered}.items()}
        rivals = detection(
            student.with_items(inside),
            cosines[GENERATED],
            {name: found for name, found in cosines.items() if name != GENERATED},
            alarms,
        )
        # What an embedding alone could be judged by.
        results[kind] = rivals + embedding_detection(inside, outside, answered, alarms)
        if file is not None:
            in_use = {
                name: _judged(found, statistics[name], groups, file, kind) for name, found in cosines.items()
            }
            results[f"{kind}, in use"] = in_use
            aims += _aims(in_use, rivals[0], alarms, kind)
    kinds = {name: found for name, found in statistics.items() if name != GENERATED}
    results["pixels, a kind left out"] = left_out(
        student.statistics(known), statistics[GENERATED], kinds, alarms
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


def _foreign(
    student: StudentEncoder,
    subject: Subject,
    test: Queries,
    folders: Mapping[str, Path],
    count: int,
    seed: int,
) -> dict[str, list[Picture]]:
    size = subject.recipe.image_size
    sets = {name: pictures_in(folder, count, size, seed) for name, folder in folders.items()}
    sets["noise"] = noise(count, size, seed)
    sets["flat colours"], sets["gradients"] = flat(count, size, seed), gradients(count, size, seed)
    sets["text and screens"] = pages(count, size, seed)
    if subject.recipe.name != ADOPTED:
        # Of an adopted model it is not known how one without training would begin.
        sets["untrained generator"] = untrained(subject, test, count, seed)
    sets["adversarial"] = climbed(
        lambda pictures: student.cosines(pictures, [""] * len(pictures)).max(axis=1),
        min(count, 50),
        size,
        seed,
    )
    return sets


def _judged(
    cosines: Cosines, statistics: npt.NDArray[np.float32], groups: Columns, file: CalibrationFile, kind: str
) -> dict[str, Any]:
    """Of one set: the part that is flagged, by either half and by both, and the mean part paid to creators."""
    by, pixels = file.calibration.of(kind == "image_and_prompt"), file.calibration.pixels
    certainty = pixels.certainty(statistics) if pixels else np.ones(len(cosines))
    near = SCORES[SERVED](cosines) < by.ood_similarity
    flagged = near | (certainty == 0)
    shares, diffuse = shares_of(cosines, groups, by, file.candidates, certainty)
    without = shares_of(cosines, groups, replace(by, ood_similarity=-1.0, ood_margin=0.0), file.candidates)[0]
    return {
        "flagged": float(flagged.mean()),
        "by cosine": float(near.mean()),
        "by pixels": float((certainty == 0).mean()),
        "paid": float(shares.sum(axis=1).mean()),
        "paid without a flag": float(without.sum(axis=1).mean()),
        "least diffuse part of a flagged answer": float(diffuse[flagged].min()) if flagged.any() else None,
        "pictures": len(cosines),
    }


def _aims(
    in_use: Mapping[str, Any], rival: Mapping[str, Any], alarms: float, kind: str
) -> list[dict[str, Any]]:
    raised = in_use[GENERATED]["flagged"]
    note = f"of {in_use[GENERATED]['pictures']} pictures; best cosine alone {rival['false alarms']:.3f}"
    met = abs(raised - alarms) <= ALARMS_WITHIN
    # A constant flags the part that is asked for, of generated and of foreign ones alike.
    found = [share_aim(f"false alarms, {kind}", raised, alarms, met, note, alarms, rival["false alarms"])]
    for name, row in in_use.items():
        if name == GENERATED:
            continue
        # Nothing is called met that every answer meets without a flag.
        free = row["paid without a flag"]
        note = f"best cosine alone {rival[name]['detected']:.2f}; at random {alarms:g}"
        met, alone = row["flagged"] >= DETECTED, rival[name]["detected"]
        found.append(share_aim(f"{name} flagged, {kind}", row["flagged"], DETECTED, met, note, alarms, alone))
        note = f"without a flag {free:.3f}"
        met = row["paid"] <= PAID < free
        found.append(share_aim(f"{name} paid, {kind}", row["paid"], PAID, met, note, free))
        least = row["least diffuse part of a flagged answer"]
        if least is not None:
            name = f"{name}, least diffuse part of a flagged answer, {kind}"
            found.append(share_aim(name, least, DETECTED, least >= DETECTED, ""))
    return found


def _pictures(subject: Subject, queries: Queries) -> list[Picture]:
    return list(decode(subject.autoencoder, queries.latents))


def _ask(student: StudentEncoder, pictures: list[Picture], queries: Queries, kind: str) -> Cosines:
    prompts = [""] * len(pictures)
    if kind == "image_and_prompt":
        prompts = [queries.prompts[at % len(queries)] for at in range(len(pictures))]
    return np.asarray(student.embed(pictures, prompts))
