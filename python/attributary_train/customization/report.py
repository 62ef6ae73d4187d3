"""The table of spaces: untuned and tuned, objects and styles, seen and unseen; and what the aims say of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attributary_train.customization.check import AIM, Check, check
from attributary_train.customization.gallery import MIN_DISTRACTORS, Embedded, Gallery, embed_gallery
from attributary_train.customization.learning import FAMILIES, Learned, learn, map_identity
from attributary_train.customization.maps import MapSettings
from attributary_train.customization.measures import Retrieval, retrieve
from attributary_train.customization.spaces.base import Space
from attributary_train.evaluation.tables import Row, aim, interval_row, report

UNTUNED = "untuned"
TEST_EXEMPLARS = 200
# Each group of the table: kind of exemplar, and whether training held another of its concept or creator.
GROUPS = tuple((kind, seen) for kind in ("object", "style") for seen in (True, False))
Log = Callable[[str], None]


@dataclass(frozen=True)
class Table:
    """Retrievals by (space, map, kind, seen)."""

    found: dict[tuple[str, str, str, bool], Retrieval]
    maps: list[Row]

    def rows(self) -> list[Row]:
        """A row each, figures with their intervals."""
        out = []
        for (space, name, kind, seen), one in self.found.items():
            row: Row = {
                "space": space,
                "map": name,
                "kind": kind,
                "concept or creator": "seen" if seen else "unseen",
                "exemplars": len(one.figures()["mAP"]),
                "pictures": len(one.whose),
            }
            for measure, interval in one.intervals().items():
                shown = interval_row(interval)
                row |= {
                    measure: shown["value"],
                    f"{measure} low": shown["low"],
                    f"{measure} high": shown["high"],
                }
            out.append(row)
        return out

    def differences(self) -> list[Row]:
        """Every map against the untuned space, on the same exemplars."""
        return [
            {
                "space": space,
                "map": name,
                "kind": kind,
                "concept or creator": "seen" if seen else "unseen",
                "measure": measure,
                **interval_row(interval),
            }
            for (space, name, kind, seen), one in self.found.items()
            if name != UNTUNED
            for measure, interval in one.minus(self.found[space, UNTUNED, kind, seen]).items()
            if measure in ("R@10", "mAP")
        ]


def map_file(folder: Path, space: str, name: str) -> Path:
    """Where a map of a space lies: <space>-<family>[-<kind>].safetensors."""
    return folder / f"{re.sub(r'[^A-Za-z0-9+.-]', '_', space.partition('=')[0])}-{name}.safetensors"


def map_name(family: str, settings: MapSettings) -> str:
    """As tables call it: the family, and the kind where it is not the shared one."""
    return family if settings.kind == "shared" else f"{family}-{settings.kind}"


def learned_map(
    gallery: Gallery,
    embedded: Embedded,
    space: Space,
    family: str,
    settings: MapSettings,
    folder: Path,
    log: Log,
) -> Learned:
    """The map in `folder` if it is of these features, else a new one, which is put there."""
    path = map_file(folder, space.name, map_name(family, settings))
    if path.exists():
        return Learned.read(path, map_identity(gallery, space))
    found = learn(gallery, embedded, space, family, settings, log=lambda line: log(f"{space.name}: {line}"))
    found.write(path)
    return found


def measure(
    gallery: Gallery,
    spaces: Sequence[Space],
    families: Sequence[str],
    kinds: Sequence[MapSettings],
    maps: Path,
    cache: Path | None,
    log: Log,
) -> Table:
    """Embed, learn and retrieve; test exemplars are looked at here and nowhere else."""
    torch.set_num_threads(1)
    groups = [(kind, seen, gallery.rows("test", kind, seen)) for kind, seen in GROUPS]
    groups = [group for group in groups if len(group[2])]
    found: dict[tuple[str, str, str, bool], Retrieval] = {}
    about: list[Row] = []
    for space in spaces:
        log(f"{space.name}: features")
        embedded = embed_gallery(gallery, space, cache)
        for kind, seen, rows in groups:
            found[space.name, UNTUNED, kind, seen] = retrieve(gallery, embedded, rows)
        for settings in kinds:
            for family in families:
                learned = learned_map(gallery, embedded, space, family, settings, maps, log)
                mapped, name = learned.apply(embedded), map_name(family, settings)
                about.append(
                    {
                        "space": space.name,
                        "map": name,
                        "dimensions": space.dim,
                        "reduced to": learned.reduction.basis.shape[1],
                        "energy kept": round(learned.reduction.kept, 4),
                        "penalty": learned.settings.orthogonality,
                        **learned.facts,
                    }
                )
                for kind, seen, rows in groups:
                    if kind in FAMILIES[family] or family == "joint":
                        found[space.name, name, kind, seen] = retrieve(gallery, mapped, rows)
    return Table(found, about)


def evaluate(
    gallery: Gallery,
    spaces: Sequence[Space],
    missing: dict[str, str],
    families: Sequence[str],
    kinds: Sequence[MapSettings],
    maps: Path,
    cache: Path | None,
    checked_in: Space | None,
    config: dict[str, Any],
    log: Log,
) -> tuple[Row, Table]:
    """The whole report as `--json` prints it, and its table."""
    table = measure(gallery, spaces, families, kinds, maps, cache, log)
    checked = None if checked_in is None else check(gallery, checked_in, cache)
    results: Row = {"retrieval": table.rows(), "differences": table.differences(), "maps": table.maps}
    if checked is not None and checked_in is not None:
        results["maker's check"] = [
            {
                "space": checked_in.name,
                "kind": kind or "all",
                "exemplars": sum(kind in (None, own) for own in checked.kinds),
                "closer when tuned": round(checked.share(kind), 4),
            }
            for kind in (None, "object", "style")
        ]
    config = {**config, "spaces left out": missing, "distractors": len(gallery.distractor_rows)}
    return report("abc-evaluate", config, results, aims(gallery, table, checked)), table


def aims(gallery: Gallery, table: Table, checked: Check | None) -> list[Row]:
    """Aims of the table, each met or not."""
    tested = sum(exemplar.split == "test" for exemplar in gallery.exemplars)
    rows = [
        aim("test exemplars", tested, TEST_EXEMPLARS, "exemplars", tested >= TEST_EXEMPLARS),
        aim(
            "distractors",
            len(gallery.distractor_rows),
            MIN_DISTRACTORS,
            "items",
            len(gallery.distractor_rows) >= MIN_DISTRACTORS,
        ),
    ]
    for space, name, kind, seen in table.found:
        if name == "joint" and not seen:
            gain = table.found[space, name, kind, seen].minus(table.found[space, UNTUNED, kind, seen])["R@10"]
            note = f"95% interval {gain.low:.3f} to {gain.high:.3f}"
            rows.append(
                aim(
                    f"tuning raises R@10: {space}, unseen {kind}s",
                    gain.value,
                    0,
                    "R@10",
                    gain.value > 0,
                    note,
                )
            )
    overall = {
        (space, name): sum(
            float(one.figures()["R@10"].sum())
            for (own, of_map, _, _), one in table.found.items()
            if (own, of_map) == (space, name)
        )
        for space, name, _, _ in table.found
        if name in (UNTUNED, "joint")
    }
    students = {key: value for key, value in overall.items() if key[0].startswith("student")}
    if students and len(overall) > len(students):
        others = max(value for key, value in overall.items() if key not in students)
        best = max(students, key=lambda key: students[key])
        lead = (students[best] - others) / tested
        rows.append(
            aim("the student is best overall", lead, 0, "R@10", lead > 0, f"best is {' '.join(best)}")
        )
    if checked is not None:
        share = checked.share()
        rows.append(aim("closer to the exemplar when tuned", share, AIM, "share of exemplars", share >= AIM))
    return rows
