"""The report as one HTML page: no script, nothing fetched, everything that came from outside escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from . import report_plots as plots
from .report_data import Example, ReportData
from .report_pictures import ItemPicture, item_thumbnail

_SHOWN_ITEMS = 4
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1e1e22; max-width: 860px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em; margin-bottom: 0 } h2 { margin-top: 2em; font-size: 1.2em }
table { border-collapse: collapse } td, th { padding: 2px 14px 2px 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right } .faded { color: #6c6c76; font-size: 0.9em }
svg { max-width: 100%; height: auto }
.example { display: flex; gap: 12px; border-top: 1px solid #e4e4ea; padding: 12px 0; break-inside: avoid }
.example > div { width: 118px; font-size: 12px; overflow-wrap: anywhere } .example > div.query { width: 190px }
.example img { max-width: 100%; max-height: 118px; display: block } .query img { max-height: 176px }
.none { width: 100%; height: 80px; background: #f1f1f5; color: #6c6c76; display: grid; place-content: center }
@media print { body { max-width: none; margin: 0 } h2 { break-after: avoid } svg, table { break-inside: avoid } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def plots_of(data: ReportData) -> dict[str, str]:
    """Return the plots as SVG, by name."""
    axis = f"by {data.slices_are_of}; each stretch is of equal length"
    return {
        "creators": plots.creator_bars(data.creators),
        "top-share": plots.histogram(data.top_share, "Share of the first item, by generations"),
        "diffuse-share": plots.histogram(data.diffuse_share, "Diffuse share, by generations"),
        "rates": plots.rates(data.slices, axis),
    }


def page(
    data: ReportData, title: str, pictures: Mapping[tuple[int, int], str], item_picture: ItemPicture
) -> str:
    """Return the whole page; `pictures` are data URIs of generations by (shard, row)."""
    drawn = plots_of(data)
    summary = data.summary
    body = [
        f"<h1>{_e(title)}</h1>",
        f"<p class='faded'>run {_e(summary['run'])}, bundle {_e(summary['bundle_id'])} revision "
        f"{summary['bundle_revision']}, {_e(_engine(data.run))}</p>",
        _facts(data),
        "<h2>Creators' totals</h2>",
        f"<p>The unit is one generation: a creator with a total of 12 was given as much as 12 whole pictures. The "
        f"{len(data.creators)} largest of {summary['creators']:,}; all are in creators.csv. Whiskers are 95% "
        "intervals of a bootstrap over generations: how much a total varies with which pictures happened to be "
        "generated, not how well the bundle attributes. Pictures of one prompt or one user are not "
        "independent; real intervals are then wider.</p>",
        drawn["creators"],
        "<h2>How shares are distributed</h2><p>Share of the first item of each generation:</p>",
        drawn["top-share"],
        "<p>Diffuse share of each generation, which belongs to nobody in particular:</p>",
        drawn["diffuse-share"],
        "<h2>Out of distribution</h2><p>A generation is out of distribution if it resembles nothing that the "
        "bundle knows.</p>",
        drawn["rates"],
        f"<p class='faded'>{data.timeless:,} rows have no readable time.</p>" if data.timeless else "",
        "<h2>Most certain</h2><p>The generations with the smallest diffuse share.</p>",
        *(_example(example, pictures, item_picture) for example in data.most_certain),
        "<h2>Least certain</h2><p>The generations with the largest diffuse share.</p>",
        *(_example(example, pictures, item_picture) for example in data.least_certain),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{_e(title)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _engine(run: Mapping[str, Any]) -> str:
    settings = run["settings"]
    precision = f" ({settings['precision']})" if settings["engine"] == "embedded" else ""
    return f"{settings['engine']} engine{precision}, attributary {run['software']['attributary']}"


def _facts(data: ReportData) -> str:
    summary = data.summary
    answered = max(1, summary["answered"])
    total, low, high = data.diffuse
    rows = [
        ("generations", f"{summary['rows']:,}"),
        ("answered", f"{summary['answered']:,}"),
        *((f"error rows, {code}", f"{count:,}") for code, count in summary["errors"].items()),
        (
            "out of distribution",
            f"{summary['out_of_distribution']:,} ({summary['out_of_distribution'] / answered:.2%})",
        ),
        (
            "given to creators",
            f"{summary['attributed_share']:,.1f} ({summary['attributed_share'] / answered:.1%})",
        ),
        (
            "diffuse",
            f"{total:,.1f} ({total / answered:.1%}; 95% interval {low / answered:.1%} to {high / answered:.1%})",
        ),
        ("creators with a share", f"{summary['creators']:,}"),
        # Runs of output schema version 1 say neither.
        *((f"prompts, {source}", f"{count:,}") for source, count in _prompts(summary).items()),
        *((f"skipped: {reason}", f"{count:,}") for reason, count in summary.get("skipped", {}).items()),
    ]
    lines = "".join(f"<tr><td>{_e(name)}</td><td class='n'>{_e(value)}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>"


def _prompts(summary: Mapping[str, Any]) -> dict[str, int]:
    return dict(summary.get("prompts", {}).get("by_source", {}))


def _example(example: Example, pictures: Mapping[tuple[int, int], str], item_picture: ItemPicture) -> str:
    values = example.values
    creators = ", ".join(
        f"{total['creator']} {total['share']:.0%}" for total in (values["creators"] or [])[:3]
    )
    prompt = values.get("prompt")
    told = [
        _picture(pictures.get((example.shard, example.row)), "picture not at hand"),
        f"<b>{_e(_cut(values['generation_id'], 80))}</b>",
        f"<br>{_e(_cut(prompt, 160))}" if isinstance(prompt, str) and prompt else "",
        f"<br><span class='faded'>diffuse {values['diffuse_share']:.0%}"
        f"{', out of distribution' if values['out_of_distribution'] else ''}<br>{_e(_cut(creators, 160))}</span>",
    ]
    cells = [f"<div class='query'>{''.join(told)}</div>"]
    for item in (values["items"] or [])[:_SHOWN_ITEMS]:
        cells.append(
            f"<div>{_picture(item_thumbnail(item_picture, item['id']), 'item ' + str(item['id']))}"
            f"{item['share']:.0%} {_e(_cut(item['creator'], 60))}<br>"
            f"<span class='faded'>cosine {item['similarity']:.3f}</span></div>"
        )
    return f"<div class='example'>{''.join(cells)}</div>"


def _picture(uri: str | None, instead: str) -> str:
    return f"<div class='none'>{_e(instead)}</div>" if uri is None else f"<img alt='' src='{uri}'>"


def _e(text: object) -> str:
    return escape(str(text))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
