"""Does the bundle agree with its teacher as it did when it was built?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attributary_train.calibration.agreement import FIGURES, QueryAgreement, summarise

Row = dict[str, Any]
# Two-sided 95% of a normal distribution.
_Z = 1.96
# A larger difference of shares is worse; of the others a smaller value is.
_WORSE_WHEN_LARGER = frozenset({"share_difference"})


def recorded_agreement(notes: Mapping[str, str]) -> Mapping[str, Row]:
    """The agreement that a bundle's manifest carries from its build, by figure; empty if it carries none."""
    try:
        measured = json.loads(notes.get("measured", "{}"))
        found = measured.get("held_out", {}).get("agreement", {})
    except (ValueError, AttributeError):
        return {}
    return {name: found[name] for name in FIGURES if name in found}


def summary(rows: Sequence[Row], recorded: Mapping[str, Row]) -> Row:
    """Means over the queries that went well, beside what was recorded; `drift` names the figures that fell.

    A figure has drifted if it is worse than the recorded one by more than chance allows at 95%: the difference of two
    means against the deviation of each over the root of its queries (Welch).
    """
    good = [row for row in rows if row["error"] is None]
    out: Row = {
        "queries": len(rows),
        "failed": len(rows) - len(good),
        "out_of_distribution": sum(bool(row["out_of_distribution"]) for row in good),
        "seconds a query": _mean(rows, "seconds"),
        "cpu seconds a query": _mean(rows, "cpu_seconds"),
    }
    if not good:
        return {**out, "agreement": {}, "drift": [], "line": "no query could be audited"}
    found = summarise([QueryAgreement(*(float(row[name]) for name in FIGURES)) for row in good])
    drifted, lines = [], []
    for name in FIGURES:
        now = found[name]
        text = f"{name.replace('_', ' ')} {now['mean']:.3f} [{now['low']:.3f}, {now['high']:.3f}]"
        if name in recorded:
            then = recorded[name]
            verdict = _verdict(name, now, then)
            text += f" ({then['mean']:.3f} at build: {verdict})"
            if verdict == "worse":
                drifted.append(name)
        lines.append(text)
    if not recorded:
        lines.append("nothing recorded at build to compare with")
    return {**out, "agreement": found, "recorded": dict(recorded), "drift": drifted, "line": "; ".join(lines)}


def _mean(rows: Sequence[Row], name: str) -> float | None:
    return round(sum(row[name] for row in rows) / len(rows), 2) if rows else None


def _verdict(name: str, now: Row, then: Row) -> str:
    error = (now["deviation"] ** 2 / now["queries"] + then["deviation"] ** 2 / then["queries"]) ** 0.5
    fall = then["mean"] - now["mean"]
    if name in _WORSE_WHEN_LARGER:
        fall = -fall
    if abs(fall) <= _Z * error:
        return "within chance"
    return "worse" if fall > 0 else "better"
