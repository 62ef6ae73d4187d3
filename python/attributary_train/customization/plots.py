"""The tables as SVG: a dot and its interval for every space, untuned beside tuned."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from attributary_train.calibration.reliability import Reliability

_INK, _FADED, _GRID, _BEFORE, _AFTER = "#1e1e22", "#6c6c76", "#e4e4ea", "#b4661e", "#266ebe"
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
        parts.append(_text(_LABEL + 16 + 110 * at, 18, name if name == "untuned" else f"tuned ({name})"))
    for line, space in enumerate(spaces):
        parts.append(_text(_LABEL - 10, _TOP + line * _LINE + 16, space, "end"))
    for column, (kind, seen) in enumerate(groups):
        left = _LABEL + column * (_PANEL + _GAP)
        number = next(
            row["exemplars"] for row in rows if (row["kind"], row["concept or creator"]) == (kind, seen)
        )
        parts.append(_text(left, _TOP - 10, f"{seen} {kind}s ({number}), {measure}", weight="bold"))
        for tick in _TICKS:
            x = left + tick * _PANEL
            parts.append(f"<path d='M{x:.1f} {_TOP}V{_TOP + _LINE * len(spaces)}' stroke='{_GRID}'/>")
            parts.append(_text(x, _TOP + _LINE * len(spaces) + 16, f"{tick:g}", "middle", _FADED))
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
    return _svg(width, height, f"{measure} of every space, with 95% intervals", parts)


def reliability_svg(panels: Sequence[tuple[str, Reliability]]) -> str:
    """One panel a reading: promised shares against what was true; square-root axes, since shares crowd near 0."""
    side, left = 220, 46
    parts = []
    for column, (title, found) in enumerate(panels):
        x0, bottom = left + column * (side + 60), 40 + side
        top = max([max(one.predicted, one.observed) for one in found.bins] + [1e-3])

        def at(share: float, top: float = top) -> float:
            return float((max(share, 0.0) / top) ** 0.5 * side)

        parts.append(_text(x0, 16, title, weight="bold"))
        parts.append(_text(x0, 32, f"ECE {found.error.value:.4f}", colour=_FADED))
        parts.append(f"<rect x='{x0}' y='40' width='{side}' height='{side}' fill='none' stroke='{_GRID}'/>")
        parts.append(f"<path d='M{x0} {bottom}L{x0 + side} 40' stroke='{_FADED}' stroke-dasharray='4 4'/>")
        for tick in (0.0, top / 16, top / 4, top):
            parts.append(_text(x0 + at(tick), bottom + 16, f"{tick:.2g}", "middle", _FADED))
            parts.append(_text(x0 - 6, bottom - at(tick) + 4, f"{tick:.2g}", "end", _FADED))
        for one in found.bins:
            x, y = x0 + at(one.predicted), bottom - at(one.observed)
            parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{_AFTER}'/>")
        parts.append(_text(x0 + side / 2, bottom + 34, "share promised", "middle", _FADED))
    return _svg(left + len(panels) * (side + 60), side + 84, "Promised shares against true ones", parts)


def _text(
    x: float, y: float, words: str, anchor: str = "start", colour: str = _INK, weight: str = "normal"
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}' font-weight='{weight}'>"
        f"{escape(words)}</text>"
    )


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' "
        f"height='{height:.0f}' role='img' font-family='system-ui, sans-serif' font-size='12'>"
        f"<title>{escape(title)}</title><rect width='100%' height='100%' fill='white'/>{''.join(parts)}</svg>\n"
    )
