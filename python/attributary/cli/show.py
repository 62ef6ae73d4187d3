"""Answers for people (tables) and for programs (JSON)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from attributary.client.types import Answer
from attributary.plain import plain

_FRAME = 3  # cells of a column's frame and padding
_NARROWEST = 8


def answer_json(answer: Answer) -> dict[str, Any]:
    """The answer as JSON-ready values; shares in [0, 1], timings in milliseconds. A receipt is a file of its own."""
    facts = asdict(answer)
    del facts["receipt"]
    return facts


def answer_table(title: str, answer: Answer) -> RenderableType:
    """A table of the ranked items, then one line of creators and one of timings; as wide as the terminal allows.

    Rank, id and share are always whole, and the creator nearly so; captions, then licences, then similarities give way.
    """
    return _AnswerTable(title, answer)


@dataclass(frozen=True, slots=True)
class _AnswerTable:
    title: str
    answer: Answer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        answer = self.answer
        yield self._table(options.max_width)
        yield Text(plain(creators_line(answer)))
        if answer.out_of_distribution:
            yield Text("out of distribution: resembles nothing that this bundle knows", style="bold yellow")
        if answer.unjudged:
            yield Text(
                "not judged: an embedding alone does not show whether its picture is the generator's",
                style="yellow",
            )
        if answer.timings is not None:
            yield Text(timings_line(answer), style="dim")

    def _table(self, width: int) -> Table:
        items = self.answer.items
        numbers = [
            (str(item.rank), str(item.id), percent(item.share), f"{item.similarity:.3f}") for item in items
        ]
        names = [[plain(item.creator), plain(item.caption), plain(item.licence)] for item in items]
        heads: tuple[str, ...] = ("#", "id", "share", "similarity")
        sizes = [
            _FRAME + max(len(head), *(len(row[place]) for row in numbers), 0)
            for place, head in enumerate(heads)
        ]
        left = width - 1 - sum(sizes)
        if left < _FRAME + _NARROWEST:
            # Rank, id and share stay at any width.
            heads, left = heads[:3], left + sizes[3]
        creator, caption, licence = _widths(names, left)
        title = Text(plain(self.title), style="bold")
        table = Table(title=title, title_justify="left", expand=False)
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True)
        shown = [(name, size, place) for name, size, place in (
            ("caption", caption, 1), ("creator", creator, 0), ("licence", licence, 2)) if size]  # fmt: skip
        for name, size, _ in shown:
            table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=size)
        for row, texts in zip(numbers, names, strict=True):
            table.add_row(*row[: len(heads)], *(Text(texts[place]) for _, _, place in shown))
        return table


def _widths(names: list[list[str]], left: int) -> tuple[int, int, int]:
    """Cells for creator, caption and licence of what is left of a line; 0 for a column that has no room."""
    creator, caption, licence = (
        max(len(head), *(cell_len(row[place]) for row in names), 0)
        for place, head in enumerate(("creator", "caption", "licence"))
    )
    creator = max(0, min(creator, left - _FRAME))
    left -= creator + _FRAME
    caption_least = min(caption, _NARROWEST) + _FRAME
    licence = licence if licence + _FRAME + caption_least <= left else 0
    left -= licence + _FRAME if licence else 0
    return creator, (min(caption, left - _FRAME) if caption_least <= left else 0), licence


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
