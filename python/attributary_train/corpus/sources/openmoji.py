"""OpenMoji: emoji drawn by more than a hundred named artists to one style guide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.item import UNKNOWN_CREATOR
from attributary_train.corpus.names import (
    ConceptNames,
    canonical_code,
    has_skin_tone,
    is_private,
    read_json,
    slug,
    split_tags,
)
from attributary_train.corpus.pins import OPENMOJI
from attributary_train.corpus.sources.base import Drawing, SourceReport


@dataclass(frozen=True, slots=True)
class OpenMoji:
    """The colour drawings without skin-tone variants, which repeat a drawing in another colour."""

    name: str = "openmoji"
    held_out_default: bool = False
    uses_names: bool = True

    def drawings(self, cache: PackageCache, names: ConceptNames, report: SourceReport) -> Iterator[Drawing]:
        """Yield one drawing an entry of `data/openmoji.json`."""
        root = cache.npm(OPENMOJI)
        report.packages[OPENMOJI.name] = OPENMOJI.version
        for entry in sorted(
            read_json(root / "data" / "openmoji.json"), key=lambda entry: str(entry["hexcode"])
        ):
            code = canonical_code(entry["hexcode"])
            path = root / "color" / "svg" / f"{entry['hexcode']}.svg"
            if has_skin_tone(code) or entry["skintone"]:
                report.skipped["skin tone"] += 1
                continue
            if not path.exists():
                report.problem(f"color/svg/{path.name}", "listed but not in the package")
                continue
            concept = code
            if is_private(code):
                concept = names.code(entry["annotation"]) or slug(entry["annotation"])
            groups = (entry["subgroups"].replace("-", " "),)
            yield Drawing(
                key=f"openmoji/{entry['hexcode']}",
                uri=f"{OPENMOJI.label}/color/svg/{path.name}",
                caption=entry["annotation"],
                keywords=tuple(
                    dict.fromkeys(split_tags(entry["tags"]) + split_tags(entry["openmoji_tags"]) + groups)
                ),
                concept_id=concept,
                creator=" ".join(entry["openmoji_author"].split()) or UNKNOWN_CREATOR,
                creator_url="https://openmoji.org/",
                style_set="openmoji",
                family="openmoji",
                licence_spdx="CC-BY-SA-4.0",
                licence_url="https://creativecommons.org/licenses/by-sa/4.0/",
                payload=path,
                svg=True,
            )
