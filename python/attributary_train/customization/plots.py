"""The tables as SVG: a dot and its interval for every space, untuned beside tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from attributary_train.calibration.plot import BLUE, FADED, GRID, ORANGE, Series, panels_svg, svg, text_at
from attributary_train.calibration.reliability import Reliability

_BEFORE, _AFTER = ORANGE, BLUE
_LABEL, _PANEL, _GAP, _LINE, _TOP = 130, 190, 26, 24, 62
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def table_svg(
    rows: Sequence[dict[str, Any]], measure: str, maps: tuple[str, str] = ("untuned", "joint")
) -> str:
    """One panel a group (kind, seen or unseen), one line a space; `rows` as `report.Table.rows` gives them."""
    spaces = list(dict.fromkeys(row["space"] for row in rows))
    groups = list(dict.fromkeys((row["kind"], row["concept or creator"]) for row in rows))
    width = _LABEL + len(groups) * (_PANEL + _GAP)
    height = _TOP + _LINE * len(spaces) + 34
    parts = []
    for at, (name, colour) in enumerate(zip(maps, (_BEFORE, _AFTER), strict=True)):
        parts.append(f"<circle cx='{_LABEL + 6 + 110 * at}' cy='14' r='4' fill='{colour}'/>")
        parts.append(text_at(_LABEL + 16 + 110 * at, 18, name if name == "untuned" else f"tuned ({name})"))
    for line, space in enumerate(spaces):
        parts.append(text_at(_LABEL - 10, _TOP + line * _LINE + 16, space, "end"))
    for column, (kind, seen) in enumerate(groups):
        left = _LABEL + column * (_PANEL + _GAP)
        number = next(
            row["exemplars"] for row in rows if (row["kind"], row["concept or creator"]) == (kind, seen)
        )
        parts.append(text_at(left, _TOP - 10, f"{seen} {kind}s ({number}), {measure}", weight="bold"))
        for tick in _TICKS:
            x = left + tick * _PANEL
            parts.append(f"<path d='M{x:.1f} {_TOP}V{_TOP + _LINE * len(spaces)}' stroke='{GRID}'/>")
            parts.append(text_at(x, _TOP + _LINE * len(spaces) + 16, f"{tick:g}", "middle", FADED))
        for line, space in enumerate(spaces):
            for offset, name, colour in ((-4, maps[0], _BEFORE), (4, maps[1], _AFTER)):
                for row in rows:
                    if (row["space"], row["map"], row["kind"], row["concept or creator"]) == (
                        space,
                        name,
                        kind,
                        seen,
                    ):
                        y = _TOP + line * _LINE + 12 + offset
                        low, high = (left + row[f"{measure} {end}"] * _PANEL for end in ("low", "high"))
                        parts.append(
                            f"<path d='M{low:.1f} {y}H{high:.1f}' stroke='{colour}' stroke-opacity='0.5'/>"
                        )
                        x = left + row[measure] * _PANEL
                        parts.append(f"<circle cx='{x:.1f}' cy='{y}' r='3.5' fill='{colour}'/>")
    return svg(width, height, f"{measure} of every space, with 95% intervals", parts)


def reliability_svg(panels: Sequence[tuple[str, Reliability]]) -> str:
    """One panel a reading: promised shares against what was true."""
    drawn = {
        title: [Series(_AFTER, [asdict(one) for one in found.bins], found.error.value)]
        for title, found in panels
    }
    return panels_svg(drawn, {})
