"""The sources that the command line knows by name."""

from __future__ import annotations

from collections.abc import Sequence

from attributary_train.corpus import pins
from attributary_train.corpus.sources.base import Source
from attributary_train.corpus.sources.fashion_mnist import FashionMnist
from attributary_train.corpus.sources.fluent3d import Fluent3D
from attributary_train.corpus.sources.iconify import Iconify
from attributary_train.corpus.sources.openclipart import OpenClipart
from attributary_train.corpus.sources.openmoji import OpenMoji
from attributary_train.errors import CorpusError

SOURCES: tuple[Source, ...] = (
    OpenMoji(),
    Iconify("noto", pins.NOTO, family="noto"),
    Iconify("twemoji", pins.TWEMOJI, family="twemoji"),
    Iconify("fluent-emoji-flat", pins.FLUENT_FLAT, family="fluent"),
    Fluent3D(),
    OpenClipart(),
    Iconify("emojione", pins.EMOJIONE, family="emojione", held_out_default=True),
    FashionMnist(),
)


def sources_named(names: Sequence[str]) -> tuple[Source, ...]:
    """Return the sources of these names, or the default ones for none; raises `CorpusError` for an unknown name."""
    if not names:
        return tuple(source for source in SOURCES if not source.held_out_default)
    known = {source.name: source for source in SOURCES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CorpusError("source", f"no such source: {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))
