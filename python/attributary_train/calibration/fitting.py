"""From held-out queries to `calibration.json`: both kinds of query, and the flag's threshold."""

from __future__ import annotations

from dataclasses import replace

from attributary.building.calibration_file import CalibrationFile
from attributary.building.student import StudentFolder
from attributary.bundle.manifest import Calibration
from attributary_train.evaluation.shares import Floats, shares_of

from .fit import LIKELY, Fitted, by_creator, fit_shares
from .held import KINDS, Generated, Held
from .interval import BINS, COVERAGE, Intervals, creator_intervals
from .ood import FALSE_ALARMS, SCORES, SERVED, margin, threshold
from .pixels import fit_pixels
from .skill import Climatology

_PIXELS = ", or further from their pixels' statistics than as many"
MOST_CANDIDATES = 2_000


def fit_file(
    folder: StudentFolder,
    held: Held,
    *,
    split: str,
    level: float,
    candidates: int | None = None,
    false_alarms: float = FALSE_ALARMS,
    generated: Generated | None = None,
) -> tuple[CalibrationFile, dict[str, Fitted]]:
    """Fit both kinds of query to the teacher's mass of `held`; returns the file, and what was fitted by kind.

    `generated`: cosines of further pictures of the generator, which need no labels; with them the flag's threshold is
    as sure as their number makes it. By default the labelled ones serve.
    """
    generated = Generated(held.similarity, held.statistics) if generated is None else generated
    flagged_of = len(generated.statistics)
    pixels = fit_pixels(generated.statistics, false_alarms / 2)
    # Two flags share the false alarms that were asked for.
    each = false_alarms / 2 if pixels else false_alarms
    known = pixels.certainty(held.statistics) if pixels else None
    most = len(held.items.ids)
    count = min(candidates or MOST_CANDIDATES, most)
    found, constants, intervals, same = {}, {}, {}, {}
    for kind in KINDS:
        cosines = held.similarity[kind]
        scores = SCORES[SERVED](generated.similarity[kind])
        found[kind] = fit_shares(
            cosines,
            held.grouped,
            held.target,
            creators=held.creator_of_item,
            candidates=count,
            ood_similarity=threshold(scores, each),
            ood_margin=margin(scores, each),
        )
        found[kind], intervals[kind], same[kind] = _with_interval(found[kind], held, kind, count, known)
        reach = found[kind].calibration.reach
        constants[kind] = Climatology.of(cosines, held.grouped, held.target, reach).as_json()
    method = (
        f"log loss of the teacher's mass, by item and by creator, on {len(held.queries)} {split} queries; an item has "
        f"mass where its score is {level:g} spreads above the median, and as many are named as have mass with a chance "
        f"of {LIKELY:g}; out of distribution is below the {SERVED} that {each:.1%} of {flagged_of} generated pictures "
        f"fall below{_PIXELS if pixels else ''}; intervals hold the mass of {COVERAGE:.0%} of the "
        f"creators who were told a share there"
    )
    fit = {
        "split": split,
        "queries": len(held.queries),
        "level": level,
        "false_alarms": false_alarms,
        "flagged_of": flagged_of,
        "loss": {kind: one.loss for kind, one in found.items()},
        "hidden": {kind: one.hidden for kind, one in found.items()},
        "climatology": constants,
        "intervals": {kind: _intervals_row(one) for kind, one in intervals.items()},
        "constant_interval": {kind: one.table for kind, one in same.items()},
    }
    made = CalibrationFile(
        Calibration(method, found["image"].calibration, found["image_and_prompt"].calibration, pixels),
        candidates=count,
        encoder_digest=folder.encoder_digest,
        vectors_digest=folder.vectors_digest,
        subject_weights=folder.subject.weights_digest,
        labels_digest=held.labels_digest,
        measured={"fit": fit},
    )
    return made, found


def _with_interval(
    fitted: Fitted, held: Held, kind: str, candidates: int, certainty: Floats | None
) -> tuple[Fitted, Intervals, Intervals]:
    """With what creators held who were told a share, on the queries fitted to; and what a constant would say."""
    predicted, _ = shares_of(held.similarity[kind], held.grouped, fitted.calibration, candidates, certainty)
    said = by_creator(predicted, held.creator_of_item)
    seen = by_creator(held.target.mass, held.creator_of_item)
    made, same = (creator_intervals(said, seen, bins) for bins in (BINS, (1,)))
    return replace(fitted, calibration=replace(fitted.calibration, interval=made.table)), made, same


def _intervals_row(made: Intervals) -> dict[str, float | int | None]:
    return {
        "rows": len(made.table),
        "level": made.level,
        "covered elsewhere": made.covered,
        "score elsewhere": made.score,
        "deviation of coverage": made.deviation,
    }
