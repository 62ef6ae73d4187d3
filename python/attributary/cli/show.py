"""Answers for people (tables) and for programs (JSON)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attributary.client.types import Answer


def answer_json(answer: Answer) -> dict[str, Any]:
    """The answer as JSON-ready values; shares in [0, 1], timings in milliseconds."""
    return asdict(answer)


def answer_table(title: str, answer: Answer) -> RenderableType:
    """A table of the ranked items, then one line of creators and one of timings."""
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for name, justify in (("#", "right"), ("similarity", "right"), ("share", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # rich wants a literal
    for name in ("caption", "creator", "licence"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for item in answer.items:
        table.add_row(
            str(item.rank),
            f"{item.similarity:.3f}",
            percent(item.share),
            item.caption,
            item.creator,
            item.licence,
        )
    parts: list[RenderableType] = [table, Text(creators_line(answer))]
    if answer.out_of_distribution:
        parts.append(
            Text("out of distribution: resembles nothing that this bundle knows", style="bold yellow")
        )
    if answer.timings is not None:
        parts.append(Text(timings_line(answer), style="dim"))
    return Group(*parts)


def creators_line(answer: Answer) -> str:
    """Creators by share, what belongs to nobody in particular, and what a filter or a deletion withholds."""
    named = [f"{creator.creator} {percent(creator.share)}" for creator in answer.creators[:5]]
    rest = [f"diffuse {percent(answer.diffuse_share)}"]
    if answer.withheld_share:
        rest.append(f"withheld {percent(answer.withheld_share)}")
    return "  ".join([*named, f"({', '.join(rest)})"])


def timings_line(answer: Answer) -> str:
    """The server's phases in milliseconds, those that took no time left out."""
    assert answer.timings is not None
    spent = [f"{name} {value:.2f}" for name, value in answer.timings.phases().items() if value > 0]
    return f"{answer.timings.total:.2f} ms: " + ", ".join(spent)


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage; an exact zero is told apart from a small one."""
    return "0" if share == 0 else f"{share:.1%}" if share >= 0.001 else "<0.1%"
