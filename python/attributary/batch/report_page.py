"""The report as one HTML page: no script, nothing fetched, everything that came from outside escaped.

Its pictures are generations from the log, found again and checked, and items from a corpus.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from attributary.encoder import decode
from attributary.errors import AttributaryError, RunError

from .inputs import InputFile, find_inputs
from .pictures import Access, picture_of
from .plan import open_reader
from .report_data import Example, ReportData
from .rows import Shard
from .settings import Columns, RowLimits, Settings

# Item id to the picture's file, None if there is none.
ItemPicture = Callable[[int], Path | None]

_SIDE = 176


def generation_pictures(
    run: dict[str, Any],
    arguments: Sequence[Path],
    examples: Sequence[Example],
    image_roots: Sequence[str] = (),
) -> dict[tuple[int, int], str]:
    """Return {(shard, row): data URI} of the examples whose picture is still what was attributed.

    `arguments` are the inputs of the run; `run` is run.json. Raises RunError if they are other files than the run's.
    """
    settings = _settings(run, image_roots)
    files = {file.name: file for file in find_inputs(arguments, image_roots, settings.columns.image).files}
    missing = [entry["name"] for entry in run["inputs"] if entry["name"] not in files]
    if missing:
        raise RunError("inputs", f"the run had {missing[0]}, which is not among them")
    found = {}
    for shard in _shards(run, settings.rows_per_shard):
        wanted = {example.row: example for example in examples if example.shard == shard.number}
        if not wanted:
            continue
        file = files[run["inputs"][shard.file]["name"]]
        for row, data in _read(file, shard, settings, set(wanted)).items():
            if hashlib.sha256(data).hexdigest() == wanted[row].values["image_sha256"]:
                found[shard.number, row] = thumbnail(data)
    return found


def thumbnail(data: bytes) -> str:
    """Return a data URI of a JPEG of at most 176 px a side."""
    picture = Image.fromarray(decode(data))
    picture.thumbnail((_SIDE, _SIDE))
    out = BytesIO()
    picture.save(out, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def item_thumbnail(find: ItemPicture, item_id: int) -> str | None:
    """Return an item's data URI; None if it cannot be had: a report is not worth failing for it."""
    path = find(item_id)
    if path is None:
        return None
    try:
        return thumbnail(path.read_bytes())
    except (OSError, AttributaryError):
        return None


def _shards(run: dict[str, Any], size: int) -> list[Shard]:
    """The run's shards in order, as `plan` cut them; where they begin in a tar is not known."""
    cut = [
        (place, start, min(size, entry["rows"] - start))
        for place, entry in enumerate(run["inputs"])
        for start in range(0, entry["rows"], size)
    ]
    return [Shard(number, *where) for number, where in enumerate(cut)]


def _read(file: InputFile, shard: Shard, settings: Settings, rows: set[int]) -> dict[int, bytes]:
    """Encoded pictures of some rows of a shard."""
    reader = open_reader(file, settings)
    found: dict[int, bytes] = {}
    try:
        if file.kind in ("webdataset", "tfrecord"):
            # Where a shard begins in these is known only after a walk over its headers.
            for _ in reader.ids():
                pass
        at = Shard(shard.number, shard.file, shard.start, shard.rows, *reader.place(shard.start))
        entries = (entry for batch in reader.batches(at, settings.batch_size) for entry in batch.rows)
        for row, entry in enumerate(entries):
            if row in rows and entry.problem is None:
                found[row] = picture_of(entry, settings.limits.max_image_bytes, settings.access)
    except AttributaryError:
        # The log has changed since the run. What was found is checked by its digest; the rest is not shown.
        return found
    finally:
        reader.close()
    return found


def _settings(run: dict[str, Any], image_roots: Sequence[str]) -> Settings:
    used = run["settings"]
    passed = used["pass_through"]
    return Settings(
        columns=Columns(**used["columns"]),
        pass_through=None if passed is None else tuple(passed),
        batch_size=used["batch_size"],
        rows_per_shard=used["rows_per_shard"],
        limits=RowLimits(**used["limits"]),
        access=Access(tuple(image_roots), tuple(used.get("access", {}).get("uris", ()))),
    )


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
    # Runs of output schema version 1 say nothing of prompts, of what was withheld and of what was skipped.
    withheld = summary.get("withheld_share", 0.0)
    prompts = summary.get("prompts", {}).get("by_source", {})
    return [
        ("generations", f"{summary['rows']:,}"),
        ("answered", f"{summary['answered']:,}"),
        *((f"error rows, {code}", f"{count:,}") for code, count in summary["errors"].items()),
        ("out of distribution", f"{foreign:,} ({foreign / answered:.2%})"),
        ("given to creators", f"{given:,.1f} ({given / known:.1%} {of})"),
        ("diffuse", f"{total:,.1f} ({total / known:.1%} {of}; {interval})"),
        ("withheld", f"{withheld:,.1f} ({withheld / known:.1%} {of})"),
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
