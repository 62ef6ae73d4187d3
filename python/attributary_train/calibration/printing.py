"""Reports of a calibration for a reader: the same object as --json, cut down to flat tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.strict_json import strict_json
from attributary_train.evaluation.tables import readable
from attributary_train.files import write_text

from .held import KINDS

Row = dict[str, Any]


def show(report: Row, as_object: bool, out: Path | None) -> None:
    """Print a report, and write it as JSON where asked."""
    if out is not None:
        write_text(out, strict_json(report) + "\n", EvaluationError)
    if as_object:
        click.echo(strict_json(report))
        return
    tables = _shares(report["results"]) if report["script"] == "calibration" else _flags(report["results"])
    click.echo(readable({**report, "results": tables}))


def _shares(results: Row) -> dict[str, list[Row]]:
    skill, errors, masses, agreement = [], [], [], []
    for kind in KINDS:
        found = results[kind]
        for name, row in found["skill"].items():
            skill.append({"kind": kind, "of": name, **{key: _round(value) for key, value in row.items()}})
        for name, row in found["reliability"].items():
            errors.append(
                {
                    "kind": kind,
                    "of": name,
                    "error": _round(row["expected calibration error"]["value"]),
                    "high": _round(row["expected calibration error"]["high"]),
                    "absolute": _round(row["mean absolute error"]),
                    "predictions": row["predictions"],
                }
            )
        plain = {name: _round(value) for name, value in found.items() if isinstance(value, float)}
        masses.append({"kind": kind, **plain})
        means = {name: _round(row["mean"]) for name, row in results["agreement"][kind].items()}
        agreement.append({"kind": kind, **means})
    return {"skill": skill, "expected calibration error": errors, "mass": masses, "agreement": agreement}


def _flags(results: Row) -> dict[str, list[Row]]:
    tables: dict[str, list[Row]] = {}
    for kind, found in results.items():
        if "turns" in found:
            tables[kind] = [
                {"kind": name, **{key: _round(value) for key, value in row.items()}}
                for name, row in found["turns"].items()
            ]
            continue
        rows = found if isinstance(found, list) else [found]
        tables[kind] = [
            {
                name: _round(value) if not isinstance(value, dict) else _round(value["detected"])
                for name, value in row.items()
            }
            for row in rows
        ]
    return tables


def _round(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
