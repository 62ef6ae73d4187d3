"""Plots as SVG text: vectors, no script, no font of their own; a browser prints them to PDF as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from .report_data import CreatorTotal, Slice

_INK, _FADED, _GRID = "#1e1e22", "#6c6c76", "#e4e4ea"
_BAR, _SECOND = "#266ebe", "#b4661e"
_WIDTH = 760
_FONT = "font-family='system-ui, sans-serif' font-size='12'"


def creator_bars(totals: Sequence[CreatorTotal]) -> str:
    """Horizontal bars of creators' totals with their intervals as whiskers."""
    left, right, line = 230, 90, 22
    height = 14 + line * len(totals) + 34
    most = max([total.high for total in totals] + [total.share for total in totals] + [1e-9])
    ticks = _ticks(most)
    scale = (_WIDTH - left - right) / ticks[-1]
    parts = [_grid(left + tick * scale, 8, height - 34, _number(tick)) for tick in ticks]
    for row, total in enumerate(totals):
        middle = 14 + row * line + line / 2
        low, high = left + total.low * scale, left + total.high * scale
        parts += [
            _text(left - 8, middle + 4, _cut(total.name, 34), "end"),
            f"<rect x='{left}' y='{middle - 7:.1f}' width='{total.share * scale:.1f}' height='14' fill='{_BAR}'/>",
            f"<path d='M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8' "
            f"stroke='{_INK}' fill='none'/>",
            _text(max(high, left + total.share * scale) + 8, middle + 4, _number(total.share), "start"),
        ]
    return _svg(height, "Creators' totals with 95% intervals, in generations", parts)


def histogram(counts: NDArray[np.int64], title: str) -> str:
    """Bars of a distribution over [0, 1]."""
    left, bottom, height = 60, 40, 240
    most = max(int(counts.max()), 1)
    ticks = _ticks(most)
    width = (_WIDTH - left - 20) / len(counts)
    scale = (height - bottom - 14) / ticks[-1]
    base = height - bottom
    parts = []
    for tick in ticks:
        y = base - tick * scale
        parts.append(f"<path d='M{left} {y:.1f}H{_WIDTH - 20}' stroke='{_GRID}'/>")
        parts.append(_text(left - 6, y + 4, _number(tick), "end", _FADED))
    for number, count in enumerate(counts.tolist()):
        x, tall = left + number * width, count * scale
        parts.append(
            f"<rect x='{x + 1:.1f}' y='{base - tall:.1f}' width='{width - 2:.1f}' height='{tall:.1f}' fill='{_BAR}'/>"
        )
    for tenth in range(0, 11, 2):
        parts.append(
            _text(left + tenth / 10 * (_WIDTH - left - 20), base + 18, f"{tenth * 10}%", "middle", _FADED)
        )
    return _svg(height, title, parts)


def rates(slices: Sequence[Slice], axis: str) -> str:
    """Rates of rows out of distribution (with 95% Wilson intervals) and of error rows, by slices."""
    left, bottom, height = 60, 56, 280
    foreign = [wilson(part.out_of_distribution, part.answered) for part in slices]
    wrong = [part.errors / part.rows if part.rows else 0.0 for part in slices]
    highest = max([high for _, _, high in foreign if not math.isnan(high)] + wrong + [0.01])
    ticks = _ticks(highest)
    scale = (height - bottom - 34) / ticks[-1]
    base = height - bottom
    step = (_WIDTH - left - 20) / max(1, len(slices))
    parts = [
        f"<rect x='{left}' y='6' width='10' height='10' fill='{_BAR}'/>",
        _text(left + 15, 15, "out of distribution, 95% interval", "start"),
        f"<rect x='{left + 230}' y='6' width='10' height='10' fill='{_SECOND}'/>",
        _text(left + 245, 15, "error rows", "start"),
    ]
    for tick in ticks:
        y = base - tick * scale
        parts.append(f"<path d='M{left} {y:.1f}H{_WIDTH - 20}' stroke='{_GRID}'/>")
        parts.append(
            _text(left - 6, y + 4, f"{tick:.4g}" if tick == 0 else f"{tick * 100:.3g}%", "end", _FADED)
        )
    for number, ((rate, low, high), error_rate) in enumerate(zip(foreign, wrong, strict=True)):
        x = left + (number + 0.5) * step
        if not math.isnan(rate):
            parts.append(
                f"<path d='M{x:.1f} {base - low * scale:.1f}V{base - high * scale:.1f}' stroke='{_BAR}' "
                f"stroke-width='{min(6, step * 0.5):.1f}' stroke-opacity='0.3'/>"
                f"<circle cx='{x:.1f}' cy='{base - rate * scale:.1f}' r='3' fill='{_BAR}'/>"
            )
        if slices[number].rows:
            y = base - error_rate * scale
            parts.append(
                f"<path d='M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6' stroke='{_SECOND}' stroke-width='1.5'/>"
            )
    every = max(1, math.ceil(len(slices) / 5))
    for number in range(0, len(slices), every):
        x = left + number * step
        parts.append(_text(x, base + 18, slices[number].label, "start", _FADED))
    parts.append(_text(left, base + 40, axis, "start", _FADED))
    return _svg(height, "Rate of rows out of distribution and of error rows", parts)


def wilson(hits: int, rows: int) -> tuple[float, float, float]:
    """(rate, low, high) of Wilson's 95% score interval (1927); NaN for no rows."""
    if rows == 0:
        return math.nan, math.nan, math.nan
    z, rate = 1.959964, hits / rows
    middle = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows))
    return rate, max(0.0, middle - half), min(1.0, middle + half)


def _ticks(most: float) -> list[float]:
    """Round values from 0 to at least `most`."""
    rough = most / 5
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _grid(x: float, top: float, bottom: float, label: str) -> str:
    return f"<path d='M{x:.1f} {top}V{bottom}' stroke='{_GRID}'/>" + _text(
        x, bottom + 16, label, "middle", _FADED
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = _INK) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}'>{escape(_printable(text))}</text>"


def _printable(text: str) -> str:
    # XML has no place for control characters, escaped or not.
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height:.0f}' width='{_WIDTH}' "
        f"height='{height:.0f}' role='img' {_FONT}><title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
