"""The reliability diagram as SVG text: what was promised against what the teacher saw, and how many of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

ORANGE, BLUE = "#b4661e", "#266ebe"
_COLOURS = {"image": ORANGE, "image_and_prompt": BLUE}
_NAMES = {"image": "picture alone", "image_and_prompt": "picture and prompt"}
INK, FADED, GRID = "#1e1e22", "#6c6c76", "#e4e4ea"
_SIDE, _LEFT, _TOP, _GAP = 250, 52, 44, 64
_FLOOR = 1e-4


class Series(NamedTuple):
    """What is drawn in one colour: bins with `predicted`, `observed` and `count`; the expected calibration error."""

    colour: str
    bins: Sequence[Mapping[str, Any]]
    error: float


def reliability_svg(results: Mapping[str, Any], panels: Sequence[str]) -> str:
    """One panel a reading ("top 10 items", "creators", ...), both kinds of query in each; shares on square-root axes.

    `results` is what `report.measure` returns.
    """
    drawn = {}
    for panel in panels:
        found = {kind: results[kind]["reliability"][panel] for kind in _COLOURS}
        drawn[panel] = [
            Series(_COLOURS[kind], one["bins"], one["expected calibration error"]["value"])
            for kind, one in found.items()
        ]
    return panels_svg(drawn, {_NAMES[kind]: colour for kind, colour in _COLOURS.items()})


def panels_svg(panels: Mapping[str, Sequence[Series]], legend: Mapping[str, str]) -> str:
    """A panel for every title, and below them the colours' names (`legend`: name to colour)."""
    width = _LEFT + len(panels) * (_SIDE + _GAP)
    height = _TOP + _SIDE + 72
    parts: list[str] = []
    for number, (title, series) in enumerate(panels.items()):
        parts += _panel(title, series, _LEFT + number * (_SIDE + _GAP))
    for number, (name, colour) in enumerate(legend.items()):
        left = _LEFT + 140 * number
        parts.append(f"<rect x='{left}' y='{height - 18}' width='12' height='12' fill='{colour}'/>")
        parts.append(text_at(left + 18, height - 8, name))
    return svg(width, height, "Promised shares against true ones", parts)


def _panel(title: str, series: Sequence[Series], left: float) -> list[str]:
    most = max([max(one["predicted"], one["observed"]) for each in series for one in each.bins] + [_FLOOR])
    top = next((step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if step >= most), 1.0)

    def at(share: float) -> float:
        # Shares crowd near 0: a square root gives the small ones room and leaves the diagonal straight.
        return float((max(share, 0.0) / top) ** 0.5 * _SIDE)

    bottom = _TOP + _SIDE
    parts = [text_at(left, _TOP - 22, title, weight="bold")]
    for tick in (0.0, top / 16, top / 4, top):
        where = at(tick)
        parts.append(f"<path d='M{left} {bottom - where:.1f}h{_SIDE}' stroke='{GRID}'/>")
        parts.append(f"<path d='M{left + where:.1f} {_TOP}v{_SIDE}' stroke='{GRID}'/>")
        parts.append(text_at(left - 6, bottom - where + 4, f"{tick:.3g}", "end", FADED))
        parts.append(text_at(left + where, bottom + 16, f"{tick:.3g}", "middle", FADED))
    parts.append(
        f"<path d='M{left} {bottom}L{left + _SIDE} {_TOP}' stroke='{FADED}' stroke-dasharray='4 4'/>"
    )
    parts.append(text_at(left + _SIDE / 2, bottom + 34, "share promised", "middle", FADED))
    for row, (colour, bins, error) in enumerate(series):
        for one in bins:
            x, y = left + at(one["predicted"]), bottom - at(one["observed"])
            parts.append(
                f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{colour}' fill-opacity='0.8'>"
                f"<title>{one['predicted']:.4f} promised, {one['observed']:.4f} held, {one['count']} of them</title>"
                "</circle>"
            )
        parts.append(
            text_at(left + 8, _TOP + 16 + 16 * row, f"ECE {error:.4f}", colour=colour, weight="bold")
        )
    return parts


def text_at(
    x: float, y: float, words: str, anchor: str = "start", colour: str = INK, weight: str = "normal"
) -> str:
    """Words at a place, their anchor "start", "middle" or "end"."""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}' font-weight='{weight}'>"
        f"{escape(words)}</text>"
    )


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A whole picture of `parts`, its title read out by screen readers."""
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' "
        f"height='{height:.0f}' role='img' font-family='system-ui, sans-serif' font-size='12'>"
        f"<title>{escape(title)}</title><rect width='100%' height='100%' fill='white'/>{''.join(parts)}</svg>\n"
    )
