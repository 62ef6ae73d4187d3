"""Pictures for people: loss curves and grids of samples, written while a model trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

_MARGIN = 40


def save_curve(
    path: Path, series: dict[str, Sequence[tuple[float, float]]], *, width: int = 640, height: int = 360
) -> None:
    """Draw (step, loss) points as lines, one colour a name; logarithmic loss."""
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    points = [point for line in series.values() for point in line if point[1] > 0]
    if points:
        steps = [p[0] for p in points]
        logs = [float(np.log10(p[1])) for p in points]
        low, high = min(logs), max(logs) + 1e-9
        right = max(max(steps), 1)

        def place(step: float, loss: float) -> tuple[float, float]:
            x = _MARGIN + (width - 2 * _MARGIN) * step / right
            y = height - _MARGIN - (height - 2 * _MARGIN) * (np.log10(loss) - low) / (high - low)
            return x, float(y)

        for number, (name, line) in enumerate(series.items()):
            colour = ("#1f5fbf", "#c0392b", "#27864a", "#8e44ad")[number % 4]
            pen.line([place(*point) for point in line if point[1] > 0], fill=colour, width=2)
            pen.text((width - _MARGIN - 160, 10 + 14 * number), name, fill=colour)
        pen.text((4, 20), f"{10**high:.3g}", fill="black")
        pen.text((4, height - _MARGIN - 10), f"{10**low:.3g}", fill="black")
        pen.text((width - _MARGIN - 40, height - 20), f"step {right:.0f}", fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def save_grid(
    path: Path, rows: Sequence[npt.NDArray[np.uint8]], titles: Sequence[str] = (), *, scale: int = 2
) -> None:
    """Write rows of pictures, each uint8 [B, S, S, 3], one below the other, with a title left of each row."""
    side = rows[0].shape[1] * scale
    left = 0 if not titles else 150
    canvas = Image.new("RGB", (left + side * max(len(row) for row in rows), side * len(rows)), "white")
    pen = ImageDraw.Draw(canvas)
    for y, row in enumerate(rows):
        if titles:
            pen.multiline_text((4, y * side + 4), titles[y], fill="black")
        for x, picture in enumerate(row):
            canvas.paste(
                Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST),
                (left + x * side, y * side),
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)
