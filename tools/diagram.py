"""The picture of docs/architecture.md, drawn from the folders and their imports: `python tools/diagram.py` writes it.

A part stands above all that it imports. An arrow that follows from others is left out. Parts that import each
other are one box.
"""

from __future__ import annotations

from html import escape
from itertools import pairwise
from pathlib import Path

from arrows import PYTHON, parts

PICTURE = PYTHON.parent / "docs" / "images" / "architecture.svg"
PACKAGES = ("attributary", "attributary_train")
_WIDE, _HIGH, _GAP, _STEP, _EDGE = 118, 34, 22, 74, 28
_SWEEPS = 12
_STYLE = """
  .paper { fill: #fff } .frame { fill: #f6f7fb; stroke: #b9c0d4 }
  .part { fill: #e3e8fb; stroke: #3f51b5 } .arrow { fill: none; stroke: #5b6379; stroke-width: 1.3 }
  .head { fill: #5b6379 } text { font: 13px system-ui, sans-serif; fill: #1d2333; text-anchor: middle }
  .name { font-weight: 600; text-anchor: start }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #1e2129 } .frame { fill: #262a35; stroke: #4b5266 } .part { fill: #323a5e; stroke: #8c9eff }
    .arrow { stroke: #aab1c5 } .head { fill: #aab1c5 } text { fill: #eef0f6 }
  }
"""

Graph = dict[str, set[str]]
Place = tuple[str, ...]  # (box,), or (from, to) where an arrow passes
End = tuple[Place, int]  # a place and its row


def reached(graph: Graph, part: str) -> set[str]:
    """Everything that a part imports, through others too."""
    found: set[str] = set()
    left = list(graph[part])
    while left:
        here = left.pop()
        if here not in found:
            found.add(here)
            left += graph[here]
    return found


def boxes(graph: Graph) -> Graph:
    """Return the arrows between boxes: circles made one box, arrows that follow from others left out."""
    behind = {part: reached(graph, part) for part in graph}
    box = {
        part: " + ".join(sorted({part, *(other for other in behind[part] if part in behind[other])}))
        for part in graph
    }
    merged: Graph = {name: set() for name in sorted(set(box.values()))}
    for part, others in graph.items():
        merged[box[part]] |= {box[other] for other in others} - {box[part]}
    behind = {name: reached(merged, name) for name in merged}
    return {
        name: {to for to in others if not any(to in behind[other] for other in others - {to})}
        for name, others in merged.items()
    }


def rows(graph: Graph) -> list[list[Place]]:
    """Boxes by height, the lowest first; an arrow that passes a row holds a place in it."""
    height: dict[str, int] = {}
    while len(height) < len(graph):
        for name, others in graph.items():
            if name not in height and all(other in height for other in others):
                height[name] = 1 + max((height[other] for other in others), default=-1)
    found: list[list[Place]] = [[] for _ in range(1 + max(height.values()))]
    for name, others in graph.items():
        found[height[name]].append((name,))
        for other in sorted(others):
            for row in range(height[other] + 1, height[name]):
                found[row].append((name, other))
    return found


def places(graph: Graph) -> tuple[dict[End, float], list[list[Place]]]:
    """Return the middle of each place, and the rows: each place near to what it hangs on, above and below in turn."""
    stacked = rows(graph)
    at = {(place, row): float(x) for row, here in enumerate(stacked) for x, place in enumerate(here)}
    ends = [pair for way in lines(graph, stacked) for pair in pairwise(way)]
    for sweep in range(_SWEEPS):
        up = sweep % 2 == 0
        for row in range(len(stacked)) if up else reversed(range(len(stacked))):
            wanted = {place: _middle((place, row), at, ends, up) for place in stacked[row]}
            stacked[row] = sorted(wanted, key=lambda place, x=wanted: (x[place], place))  # type: ignore[misc]
            right = -1e9
            for place in stacked[row]:
                right = at[place, row] = max(right + (1.0 if len(place) == 1 else 0.7), wanted[place])
            drift = sum(at[place, row] - x for place, x in wanted.items()) / len(wanted)
            for place in wanted:
                at[place, row] -= drift
    return at, stacked


def _middle(mine: End, at: dict[End, float], ends: list[tuple[End, End]], up: bool) -> float:
    near = [one if mine == other else other for one, other in ends if mine in (one, other)]
    near = [end for end in near if (end[1] < mine[1]) == up]
    return sum(at[end] for end in near) / len(near) if near else at[mine]


def lines(graph: Graph, stacked: list[list[Place]]) -> list[list[End]]:
    """The way of each arrow: places with their rows, from the box above to the one below."""
    row_of = {place[0]: row for row, here in enumerate(stacked) for place in here if len(place) == 1}
    return [
        [
            ((name,), row_of[name]),
            *(((name, other), row) for row in range(row_of[name] - 1, row_of[other], -1)),
            ((other,), row_of[other]),
        ]
        for name, others in graph.items()
        for other in sorted(others)
    ]


def drawn(package: str, left: float) -> tuple[list[str], float, float]:
    """The elements of one package with its frame at `left`, and the frame's width and height."""
    graph = boxes(parts(PYTHON / package))
    at, stacked = places(graph)
    low = min(at.values())
    width = (max(at.values()) - low) * (_WIDE + _GAP) + _WIDE + 2 * _EDGE
    height = len(stacked) * _STEP - (_STEP - _HIGH) + 2 * _EDGE + 20

    def x(end: End) -> float:
        return round(left + _EDGE + _WIDE / 2 + (at[end] - low) * (_WIDE + _GAP), 1)

    def y(row: int) -> float:
        return round(height - _EDGE - _HIGH / 2 - row * _STEP + _EDGE / 2, 1)

    out = [
        f'<rect class="frame" x="{left}" y="{_EDGE / 2}" width="{width:.1f}" height="{height:.1f}" rx="10"/>',
        f'<text class="name" x="{left + 12}" y="{_EDGE / 2 + 22}">python/{package}</text>',
    ]
    for way in lines(graph, stacked):
        (top, *between, bottom) = [(x(end), y(end[1])) for end in way]
        path = f"M{top[0]} {top[1] + _HIGH / 2}"
        last = (top[0], top[1] + _HIGH / 2)
        for end in [*between, (bottom[0], bottom[1] - _HIGH / 2 - 7)]:
            bend = (last[1] + end[1]) / 2
            path += f" C{last[0]} {bend:.1f} {end[0]} {bend:.1f} {end[0]} {end[1]:.1f}"
            last = end
        out.append(f'<path class="arrow" d="{path}" marker-end="url(#head)"/>')
    for row, here in enumerate(stacked):
        for place in here:
            if len(place) > 1:
                continue
            middle = x((place, row))
            out.append(
                f'<rect class="part" x="{middle - _WIDE / 2:.1f}" y="{y(row) - _HIGH / 2}" width="{_WIDE}" '
                f'height="{_HIGH}" rx="6"/>'
            )
            names = place[0].split(" + ")
            for line, name in enumerate(names):
                down = y(row) + 4.5 + (line - (len(names) - 1) / 2) * 14
                out.append(f'<text x="{middle}" y="{down}">{escape(name)}</text>')
    return out, width, height + _EDGE / 2


def picture() -> str:
    """The whole picture as SVG."""
    body: list[str] = []
    left, tall = _EDGE / 2, 0.0
    for package in PACKAGES:
        more, width, height = drawn(package, left)
        body += more
        left += width + _EDGE
        tall = max(tall, height)
    wide, tall = left - _EDGE / 2, tall + _EDGE / 2
    names = "; ".join(f"{package}: {', '.join(parts(PYTHON / package))}" for package in PACKAGES)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {tall:.0f}" role="img">',
            f"<title>Parts of the packages and what they import</title><desc>{escape(names)}</desc>",
            f"<style>{_STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<rect class="paper" width="{wide:.0f}" height="{tall:.0f}"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def main() -> None:
    """Write it."""
    Path(PICTURE).write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
