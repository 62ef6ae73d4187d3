"""Answers in a notebook: as a table that is shown by itself, as a data frame, as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from attributary.errors import needs

if TYPE_CHECKING:
    import pandas

_COLUMNS = ("rank", "id", "share", "similarity", "creator", "licence", "caption")
_SHOWN_CREATORS = 10


class _Answer(Protocol):
    """What every answer has; attribution.types and client.types each have their own class."""

    @property
    def items(self) -> Sequence[Any]: ...
    @property
    def creators(self) -> Sequence[Any]: ...
    @property
    def diffuse_share(self) -> float: ...
    @property
    def withheld_share(self) -> float: ...
    @property
    def out_of_distribution(self) -> bool: ...


class Shown:
    """Mixed into answers."""

    __slots__ = ()

    def _repr_html_(self: _Answer) -> str:
        """A table of sources and a line of creators; text of others is escaped."""
        rows = "".join(
            "<tr>" + "".join(f"<td>{_cell(item, name)}</td>" for name in _COLUMNS) + "</tr>"
            for item in self.items
        )
        heads = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        named = ", ".join(f"{escape(name)} {share:.1%}" for name, share in _parts(self))
        flag = "<p><b>Resembles nothing that the bundle knows: nothing is given to anybody.</b></p>"
        return (
            f"{flag if self.out_of_distribution else ''}<table><thead><tr>{heads}</tr></thead>"
            f"<tbody>{rows}</tbody></table><p>{named}</p>"
        )

    def to_pandas(self: _Answer) -> pandas.DataFrame:
        """Return the ranked items, a row each. Raises UnavailableError without pandas."""
        with needs("notebook"):
            import pandas
        names = [*_COLUMNS, "creator_url", "uri", "near_dup_group"]
        return pandas.DataFrame([asdict(item) for item in self.items], columns=names)

    def plot(self: _Answer, axes: Any = None) -> Any:
        """Draw the shares of creators, what is nobody's and what is withheld; return the matplotlib axes.

        Draws into `axes` if they are given. Raises UnavailableError without matplotlib.
        """
        with needs("notebook"):
            from matplotlib import pyplot
        parts = _parts(self)[::-1]
        if axes is None:
            axes = pyplot.subplots(figsize=(6, 0.4 * len(parts) + 1))[1]
        rest = {"nobody in particular": "#8b949d", "withheld": "#c79a2b", "further creators": "#5f7a8a"}
        axes.barh(
            range(len(parts)),
            [share for _, share in parts],
            color=[rest.get(name, "#1f5fa8") for name, _ in parts],
        )
        # A name is text, not markup between dollar signs.
        axes.set_yticks(range(len(parts)), [name.replace("$", r"\$") for name, _ in parts])
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of the picture's influence")
        return axes


def _parts(answer: _Answer) -> list[tuple[str, float]]:
    """Creators by share, then what is left of all of it: the parts add up to 1."""
    named = [(total.creator, float(total.share)) for total in answer.creators if total.share > 0][
        :_SHOWN_CREATORS
    ]
    further = 1 - sum(share for _, share in named) - answer.diffuse_share - answer.withheld_share
    rest = (
        ("further creators", further),
        ("withheld", answer.withheld_share),
        ("nobody in particular", answer.diffuse_share),
    )
    return [*named, *((name, float(share)) for name, share in rest if share > 5e-4)]


def _cell(item: Any, name: str) -> str:
    value = getattr(item, name)
    if name == "share":
        return f"{value:.1%}"
    return f"{value:.3f}" if name == "similarity" else escape(str(value))
