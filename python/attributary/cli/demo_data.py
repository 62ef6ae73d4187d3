"""What `attributary demo` shows without options: the committed student and pictures of its generator."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from attributary.errors import InvalidArgumentError
from attributary.plain import plain

_PACKAGE: Final = "attributary_demo"
# What people read in place of the name of the recipe that trained it.
GENERATOR: Final = "emoji reference generator"
_FOLDERS: Final = ("student", "demo-queries")


def demo_data() -> tuple[Path, Path]:
    """Return the student and the queries: of the package attributary-demo, else of models/ below here.

    Raises InvalidArgumentError that says how to get them.
    """
    found = find_spec(_PACKAGE)
    places = [Path(place) for place in (found.submodule_search_locations or [])] if found else []
    for place in (*places, Path("models")):
        student, queries = (place / name for name in _FOLDERS)
        if student.is_dir() and queries.is_dir():
            return student, queries
    raise InvalidArgumentError(
        "bundle", "must be given: neither the package attributary-demo nor models/ of a checkout is here"
    )


def built(student: Path, queries: Path, out: Path) -> Path:
    """Return the student's bundle in `out`, built (in seconds) unless it is there already."""
    if not (out / "manifest.json").is_file():
        from attributary.building.from_student import build_from_student

        click.echo(f"building {plain(str(out))} from {plain(str(student))}", err=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        build_from_student(student, student / "items.parquet", queries, out, generator=GENERATOR)
    return out
