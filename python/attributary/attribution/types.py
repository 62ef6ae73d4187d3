"""Queries, options and answers of the core; no transport, no file format."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from attributary.errors import InvalidArgumentError
from attributary.notebook import Shown

if TYPE_CHECKING:
    # Not loaded for these: the client has the types without arrays.
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Limits:
    """What a caller may ask for. Enforced before any work is done."""

    max_image_bytes: int = 20 * 1024 * 1024
    max_image_pixels: int = 50_000_000
    max_prompt_bytes: int = 8 * 1024
    max_top_k: int = 1_000
    max_batch_queries: int = 64


@dataclass(frozen=True, slots=True)
class Filter:
    """Shows only items that pass all four lists; include lists are unions, empty ones let all pass.

    Shares stay what they are without it; those of hidden items are withheld.
    """

    include_creators: tuple[str, ...] = ()
    exclude_creators: tuple[str, ...] = ()
    include_licences: tuple[str, ...] = ()
    exclude_licences: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for one in fields(self):
            values = getattr(self, one.name)
            # A name alone would be read as its letters.
            if isinstance(values, str | bytes) or not all(isinstance(value, str) for value in values):
                raise InvalidArgumentError(f"options.filter.{one.name}", f"must be texts, got {values!r:.80}")

    def __bool__(self) -> bool:
        return bool(
            self.include_creators or self.exclude_creators or self.include_licences or self.exclude_licences
        )


@dataclass(frozen=True, slots=True)
class Options:
    """What to return. None stands for the default: 10, or less in a smaller corpus."""

    top_k: int | None = None
    top_creators: int | None = None
    filter: Filter = Filter()
    digests: bool = False  # say which picture it was: Attribution.picture


@dataclass(frozen=True, slots=True)
class Query:
    """One question: exactly one of `image`, `pixels`, `embedding`, and an optional prompt.

    `image` is an encoded picture; `pixels` uint8 RGB [H, W, 3]; `embedding` float [D]. `has_prompt` belongs to an
    embedding and says that its encoder was given the prompt; `prompt` must then be empty. So does `certainty`,
    in [0, 1], which says what the picture's pixels were judged to be (None: not known), and `encoder_digest`, of the
    encoder that made it ("": not known).
    """

    image: bytes | None = None
    pixels: NDArray[np.uint8] | None = None
    embedding: NDArray[np.float32] | None = None
    prompt: str = ""
    has_prompt: bool = False
    certainty: float | None = None
    encoder_digest: str = ""


@dataclass(slots=True)
class Timings:
    """Wall milliseconds that one query spent in each phase; phases of a batch count in full for each member."""

    queue: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    tokenize: float = 0.0
    encode: float = 0.0
    search: float = 0.0
    rescore: float = 0.0
    assemble: float = 0.0
    batch_size: int = 0


PHASES = ("queue", "decode", "preprocess", "tokenize", "encode", "search", "rescore", "assemble")


@dataclass(frozen=True, slots=True)
class PictureDigests:
    """Which picture an answer is about; SHA-256, hex."""

    data: str  # of the encoded bytes; empty where pixels were given
    pixels: str  # of what they decode to: `attributary.pictures.pixels_digest`


@dataclass(slots=True)
class Prepared:
    """A query that has passed every check and is ready for a batch: pixels and tokens, or an embedding.

    With both the pixels are not encoded, but say whether the picture is the generator's.
    """

    top_k: int
    top_creators: int
    filter: Filter
    has_prompt: bool
    pixels: NDArray[np.uint8] | None = None  # [S, S, 3], the encoder's own size
    tokens: NDArray[np.int64] = field(default_factory=lambda: _none())  # [T], 0 without a prompt
    embedding: NDArray[np.float32] | None = None  # [D], unit length
    # The part that items may have by the picture's pixels: of an embedding as it came, of a picture of one colour 0.
    certainty: float | None = None
    showing: NDArray[np.int64] = field(default_factory=lambda: _none())  # rows whose very picture it is
    timings: Timings = field(default_factory=Timings)
    picture: PictureDigests | None = None  # where it was asked for


@dataclass(frozen=True, slots=True)
class AttributedItem:
    """One training item in an answer; `rank` from 1, `similarity` a cosine, `share` in [0, 1].

    Of an item whose very picture was asked with, `similarity` is at least that of every other.
    """

    id: int
    rank: int
    similarity: float
    share: float
    caption: str
    creator: str
    licence: str
    uri: str
    creator_url: str = ""
    near_dup_group: int = 0  # items of one group share credit
    creator_ids: tuple[str, ...] = ()  # "isni:...", "orcid:..."; as far as they are known


@dataclass(frozen=True, slots=True)
class CreatorShare:
    """A creator's total over all candidates that can be seen, and how many of them have a share above 0."""

    creator: str
    share: float
    item_count: int
    # Between what the creator's influence lies nine times in ten; None where the bundle's calibration does not say.
    low: float | None = None
    high: float | None = None
    creator_ids: tuple[str, ...] = ()  # as in AttributedItem


@dataclass(frozen=True, slots=True)
class Attribution(Shown):
    """The answer to one query."""

    items: tuple[AttributedItem, ...]  # by descending similarity
    creators: tuple[CreatorShare, ...]  # by descending share
    diffuse_share: float  # in [0, 1]; what belongs to nobody in particular
    withheld_share: float  # in [0, 1]; what belongs to items that a filter or a deletion hides
    out_of_distribution: bool  # resembles nothing known: everything is diffuse
    revision: int  # of the bundle's delta that was in force; 0 for a bundle as it was built
    timings: Timings
    picture: PictureDigests | None = None  # where it was asked for
    unjudged: bool = False  # the flag needs pixels, and there were none: not flagged says little
    has_prompt: bool = False  # the encoder was given the prompt, which was no blanks or creators' names alone


def _none() -> NDArray[np.int64]:
    import numpy

    return numpy.zeros(0, numpy.int64)
