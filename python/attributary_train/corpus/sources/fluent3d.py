"""Fluent emoji in 3D: shaded rasters by the house that also draws the flat set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.names import ConceptNames, canonical_code, has_skin_tone
from attributary_train.corpus.pins import FLUENT_3D
from attributary_train.corpus.sources.base import Drawing, SourceReport


@dataclass(frozen=True, slots=True)
class Fluent3D:
    """The WebP files of the package without skin-tone variants; their names are code points."""

    name: str = "fluent-3d"
    held_out_default: bool = False
    uses_names: bool = True

    def drawings(self, cache: PackageCache, names: ConceptNames, report: SourceReport) -> Iterator[Drawing]:
        """Yield the drawings that a name is known for; a caption of code points would teach nobody anything."""
        root = cache.npm(FLUENT_3D)
        report.packages[FLUENT_3D.name] = FLUENT_3D.version
        seen: set[str] = set()
        for path in sorted((root / "assets").glob("*.webp")):
            code = canonical_code(path.stem)
            if has_skin_tone(code):
                report.skipped["skin tone"] += 1
                continue
            if code not in names.phrases:
                report.skipped["no name known"] += 1
                continue
            if code in seen:
                report.skipped["same drawing under another name"] += 1
                continue
            seen.add(code)
            yield Drawing(
                key=f"fluent-3d/{path.stem}",
                uri=f"{FLUENT_3D.label}/assets/{path.name}",
                caption=names.phrases[code],
                keywords=names.tags.get(code, ()),
                concept_id=code,
                creator="Microsoft Corporation",
                creator_url="https://github.com/microsoft/fluentui-emoji",
                style_set="fluent-3d",
                family="fluent",
                licence_spdx="MIT",
                licence_url="https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
                payload=path,
            )
