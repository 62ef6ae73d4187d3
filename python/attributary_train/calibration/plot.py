"""The reliability diagram as SVG text: what was promised against what the teacher saw, and how many of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_COLOURS = {"image": "#b4661e", "image_and_prompt": "#266ebe"}
_NAMES = {"image": "picture alone", "image_and_prompt": "picture and prompt"}
_INK, _FADED, _GRID = "#1e1e22", "#6c6c76", "#e4e4ea"
_SIDE, _LEFT, _TOP, _GAP = 250, 52, 44, 64
_FLOOR = 1e-4


def reliability_svg(results: Mapping[str, Any], panels: Sequence[str]) -> str:
    """One panel a reading ("top 10 items", "creators", ...), both kinds of query in each; shares on square-root axes.

    `results` is what `report.measure` returns.
    """
    width = _LEFT + len(panels) * (_SIDE + _GAP)
    height = _TOP + _SIDE + 72
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        f"font-family='system-ui, sans-serif' font-size='12'>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
    ]
    for number, panel in enumerate(panels):
        parts += _panel(results, panel, _LEFT + number * (_SIDE + _GAP))
    left = _LEFT
    for kind, colour in _COLOURS.items():
        parts.append(f"<rect x='{left}' y='{height - 18}' width='12' height='12' fill='{colour}'/>")
        parts.append(_text(left + 18, height - 8, _NAMES[kind]))
        left += 140
    return "\n".join([*parts, "</svg>", ""])


def _panel(results: Mapping[str, Any], panel: str, left: float) -> list[str]:
    bins = {kind: results[kind]["reliability"][panel]["bins"] for kind in _COLOURS}
    most = max([max(one["predicted"], one["observed"]) for rows in bins.values() for one in rows] + [_FLOOR])
    top = next((step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if step >= most), 1.0)

    def at(share: float) -> float:
        # Shares crowd near 0: a square root gives the small ones room and leaves the diagonal straight.
        return float((max(share, 0.0) / top) ** 0.5 * _SIDE)

    bottom = _TOP + _SIDE
    parts = [_text(left, _TOP - 22, panel, weight="bold")]
    for tick in (0.0, top / 16, top / 4, top):
        where = at(tick)
        parts.append(f"<path d='M{left} {bottom - where:.1f}h{_SIDE}' stroke='{_GRID}'/>")
        parts.append(f"<path d='M{left + where:.1f} {_TOP}v{_SIDE}' stroke='{_GRID}'/>")
        parts.append(_text(left - 6, bottom - where + 4, f"{tick:.3g}", "end", _FADED))
        parts.append(_text(left + where, bottom + 16, f"{tick:.3g}", "middle", _FADED))
    parts.append(
        f"<path d='M{left} {bottom}L{left + _SIDE} {_TOP}' stroke='{_FADED}' stroke-dasharray='4 4'/>"
    )
    parts.append(_text(left + _SIDE / 2, bottom + 34, "share promised", "middle", _FADED))
    for kind, rows in bins.items():
        for one in rows:
            x, y = left + at(one["predicted"]), bottom - at(one["observed"])
            parts.append(
                f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{_COLOURS[kind]}' fill-opacity='0.8'>"
                f"<title>{one['predicted']:.4f} promised, {one['observed']:.4f} held, {one['count']} of them</title>"
                "</circle>"
            )
    for row, kind in enumerate(_COLOURS):
        error = results[kind]["reliability"][panel]["expected calibration error"]["value"]
        parts.append(
            _text(left + 8, _TOP + 16 + 16 * row, f"ECE {error:.4f}", colour=_COLOURS[kind], weight="bold")
        )
    return parts


def _text(
    x: float, y: float, words: str, anchor: str = "start", colour: str = _INK, weight: str = "normal"
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}' font-weight='{weight}'>"
        f"{escape(words)}</text>"
    )
