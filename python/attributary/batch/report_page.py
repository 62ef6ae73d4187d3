"""The report as one HTML page: no script, nothing fetched, everything that came from outside escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .report_data import ReportData
from .report_pictures import ItemPicture, item_thumbnail


def plots_of(data: ReportData) -> dict[str, str]:
    """Return the plots as SVG, by name."""
    points: list[dict[str, Any]] = []
    for part in data.slices:
        rate, low, high = wilson(part.out_of_distribution, part.answered)
        errors = part.errors / part.rows if part.rows else 0.0
        points.append({"label": part.label, "rows": part.rows, "answered": part.answered, "errors": errors,
                       "rate": rate, "low": low, "high": high})  # fmt: skip
    most = max([max(total.high, total.share) for total in data.creators] + [1e-9])
    highest = max(
        [point["high"] for point in points if point["answered"]]
        + [point["errors"] for point in points]
        + [0.01]
    )
    axis = f"by {data.slices_are_of}; each stretch is of equal length"
    plots: Any = _TEMPLATES.get_template("plots.svg.jinja").module
    drawn = {
        "creators": plots.creators(data.creators, _ticks(most)),
        "rates": plots.rates(points, _ticks(highest), axis),
    }
    for name, counts, title in (
        ("top-share", data.top_share.tolist(), "Share of the first item, by generations"),
        ("diffuse-share", data.diffuse_share.tolist(), "Diffuse share, by generations"),
    ):
        axis = title.partition(",")[0].lower()
        drawn[name] = plots.histogram(counts, _ticks(max(*counts, 1)), title, axis)
    return drawn


def page(
    data: ReportData,
    title: str,
    pictures: Mapping[tuple[int, int], str],
    item_picture: ItemPicture,
    caption: Callable[[int], str] = lambda _: "",
) -> str:
    """Return the whole page; `pictures` are data URIs of generations by (shard, row), `caption` is of an item."""
    return _TEMPLATES.get_template("report.html.jinja").render(
        data=data,
        summary=data.summary,
        facts=_facts(data),
        title=title,
        drawn={name: Markup(svg) for name, svg in plots_of(data).items()},
        pictures=pictures,
        thumbnail=lambda item_id: item_thumbnail(item_picture, item_id),
        creators=_creators,
        caption=caption,
        prompt=_prompt,
    )


def wilson(hits: int, rows: int) -> tuple[float, float, float]:
    """(rate, low, high) of Wilson's 95% score interval (1927); NaN for no rows."""
    if rows == 0:
        return math.nan, math.nan, math.nan
    z, rate = 1.959964, hits / rows
    middle = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows))
    return rate, max(0.0, middle - half), min(1.0, middle + half)


def _facts(data: ReportData) -> list[tuple[str, str]]:
    summary = data.summary
    answered, known = max(1, summary["answered"]), max(1, data.known)
    total, low, high = data.diffuse
    foreign, given = summary["out_of_distribution"], summary["attributed_share"]
    interval = f"95% interval {low / known:.1%} to {high / known:.1%}"
    of = "of all answered" if data.with_foreign else "of those in distribution"
    # Runs of output schema version 1 say nothing of prompts and of what was skipped.
    prompts = summary.get("prompts", {}).get("by_source", {})
    return [
        ("generations", f"{summary['rows']:,}"),
        ("answered", f"{summary['answered']:,}"),
        *((f"error rows, {code}", f"{count:,}") for code, count in summary["errors"].items()),
        ("out of distribution", f"{foreign:,} ({foreign / answered:.2%})"),
        ("given to creators", f"{given:,.1f} ({given / known:.1%} {of})"),
        ("diffuse", f"{total:,.1f} ({total / known:.1%} {of}; {interval})"),
        ("creators with a share", f"{summary['creators']:,}"),
        *((f"prompts, {source}", f"{count:,}") for source, count in prompts.items()),
        *((f"skipped: {reason}", f"{count:,}") for reason, count in summary.get("skipped", {}).items()),
    ]


def _prompt(row: Mapping[str, Any]) -> str:
    """What was read as the prompt; runs of output schema version 1 have it only as a column that passed through."""
    found = row.get("prompt_used") or row.get("prompt")
    return found if isinstance(found, str) else ""


def _creators(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{total['creator']} {total['share']:.0%}" for total in (row["creators"] or [])[:3])


def _ticks(most: float) -> list[float]:
    """Round values from 0 to at least `most`."""
    rough = most / 5
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _lines(text: str, most: int) -> list[str]:
    """A name in lines of at most `most` letters: nothing of it is lost."""
    return [text[start : start + most] for start in range(0, len(text), most)] or [""]


def _printable(text: str) -> str:
    # XML has no place for control characters, escaped or not.
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


_TEMPLATES = Environment(
    loader=PackageLoader("attributary.batch", ""), autoescape=True, undefined=StrictUndefined
)
_TEMPLATES.filters |= {
    "cut": _cut,
    "printable": _printable,
    "lines": _lines,
    "percent": lambda share: f"{share:.0%}",
    "px": lambda value: f"{value:.1f}",
}
_TEMPLATES.globals |= {
    "number": lambda value: f"{value:,.0f}" if value >= 1000 else f"{value:.3g}",
    "percentage": lambda value: f"{value * 100:.3g}%" if value else "0",
}
