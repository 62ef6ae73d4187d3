"""What a caller hands in and gets back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, TypeVar

from attributary.attribution.types import PHASES, AttributedItem, CreatorShare, Filter, Limits, Query
from attributary.errors import InvalidArgumentError
from attributary.files import read_file
from attributary.notebook import Shown

if TYPE_CHECKING:
    # Loaded where arrays are: pictures in files and their answers need none.
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")
# Encoded bytes, the path of a picture file, or uint8 RGB [H, W, 3].
Picture: TypeAlias = "bytes | str | Path | NDArray[np.uint8]"


@dataclass(frozen=True, slots=True)
class ReplyTimings:
    """Where a query's time went on the server, in milliseconds; skipped phases are 0."""

    queue: float
    decode: float
    preprocess: float
    tokenize: float
    encode: float
    search: float
    rescore: float
    assemble: float
    total: float
    batch_size: int

    def phases(self) -> dict[str, float]:
        """Milliseconds by phase, in the order of the query's way; without the total."""
        return {name: getattr(self, name) for name in PHASES}


@dataclass(frozen=True, slots=True)
class Answer(Shown):
    """The answer to one query."""

    items: tuple[AttributedItem, ...]  # by descending similarity
    creators: tuple[CreatorShare, ...]  # by descending share
    diffuse_share: float  # in [0, 1]; what belongs to nobody in particular
    withheld_share: float  # in [0, 1]; what belongs to items that a filter or a deletion hides
    out_of_distribution: bool  # resembles nothing known: everything is diffuse
    bundle_id: str
    bundle_version: str
    timings: ReplyTimings | None  # only if asked for
    revision: int = 0  # of the bundle's delta that was in force
    receipt: bytes = b""  # only if asked for; keep the bytes as they are (docs/receipts.md)
    unjudged: bool = False  # asked with an embedding alone: that it is not out of distribution says little
    has_prompt: bool = False  # the encoder was given the prompt, which was no blanks or creators' names alone


@dataclass(frozen=True, slots=True)
class Item:
    """One training item."""

    id: int
    caption: str
    creator: str
    creator_url: str
    licence: str  # SPDX identifier
    uri: str
    near_dup_group: int
    creator_ids: tuple[str, ...] = ()  # "isni:...", "orcid:..."; as far as they are known


@dataclass(frozen=True, slots=True)
class CreatorEntry:
    """A creator of a bundle's items."""

    name: str
    creator_url: str  # of one of the items; may be empty
    item_count: int
    creator_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiptKey:
    """A public key of a server's receipts."""

    key_id: str
    pem: str
    signs: bool  # whether new receipts are signed with it


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list; `next_page_token` asks for the one after it and is empty at the end."""

    entries: tuple[T, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedding to ask with later: `attribute(embedding=embedded)`."""

    vector: NDArray[np.float32]  # [D], unit length
    has_prompt: bool
    bundle_id: str
    encoder_digest: str  # bundles with the same encoder may be asked with it
    # What the picture's pixels say of it; None: the server does not judge pixels.
    certainty: float | None = None


@dataclass(frozen=True, slots=True)
class ShareParameters:
    """How similarities become shares; docs/architecture.md has the formula."""

    temperature: float  # cosine units
    threshold: float
    background: float  # cosine of the item that stands for nobody
    ood_similarity: float
    diffuse_floor: float
    # Cosine units above `ood_similarity` within which shares rise from nothing to whole.
    ood_margin: float = 0.0
    reach: int = 0  # at most so many near-duplicate groups have a share; 0: all candidates may
    reach_cut: float = 1.0  # the part that they lose of the weight of the first group out of reach
    reach_null: float = 1.0  # times that weight is nobody's


@dataclass(frozen=True, slots=True)
class CalibrationInfo:
    """What a bundle's shares mean: how they were set, what they were fitted to, how well that was measured to hold."""

    method: str
    labels_digest: str  # of the influence labels they were fitted to; empty if to none
    held_out_labels_digest: str
    held_out_queries: int
    measured: dict[str, float]  # by the path of a figure's name, as the bundle has it
    image: ShareParameters
    image_and_prompt: ShareParameters


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What the server serves."""

    bundle_id: str
    bundle_version: str
    subject_model: str
    encoder: str
    dim: int
    image_size: int  # pixels
    max_tokens: int
    item_count: int
    creator_count: int
    index: str
    recall_at_10: float
    limits: Limits
    max_top_creators: int  # enough for every creator of an answer
    revision: int  # of the bundle's journal; 0 without one
    added_count: int  # items added since the bundle was made
    deleted_count: int  # items deleted since then
    calibration: CalibrationInfo
    candidates: int  # R: how many candidates shares are over
    encoder_digest: str  # SHA-256 of the encoder that made the vectors
    # "masked" or "read": whether a creator's name in a prompt moves shares; "" of old servers.
    names_in_prompts: str = ""
    thumbnail_count: int = 0  # items that the server shows a picture of


class CallOptions(TypedDict, total=False):
    """What may be asked for beside a query; every entry is optional."""

    top_k: int | None  # items to return; the server's default is 10
    top_creators: int | None  # creators to return; the server's default is 10
    filter: Filter | None  # restricts the search
    timings: bool  # return the server's phase timings
    receipt: bool  # return a signed receipt
    bundle_id: str  # alias or id of the bundle that must answer; the server's default


def query(
    image: Picture | None = None,
    *,
    embedding: Sequence[float] | ArrayLike | Embedded | None = None,
    prompt: str | None = "",
    has_prompt: bool = False,
) -> Query:
    """Build a query from encoded bytes, a file's path, pixels (uint8 [H, W, 3]), or an embedding (float [D]).

    `has_prompt` belongs to an embedding and says that its encoder was given the prompt; what `embed` returned says it,
    and what the pixels were judged to be, itself. Raises
    InvalidArgumentError for a file that cannot be read and for arrays of another type or shape.
    """
    prompt = "" if prompt is None else prompt
    if (image is None) == (embedding is None):
        raise InvalidArgumentError("query", "exactly one of image and embedding must be given")
    if isinstance(embedding, Embedded):
        return Query(
            embedding=embedding.vector,
            prompt=prompt,
            has_prompt=embedding.has_prompt,
            certainty=embedding.certainty,
            encoder_digest=embedding.encoder_digest,
        )
    if embedding is not None:
        import numpy

        try:
            values = numpy.asarray(embedding)
        except ValueError:
            raise InvalidArgumentError(
                "query.embedding", "must be a vector, got rows of many lengths"
            ) from None
        if values.dtype.kind not in "fiu":
            raise InvalidArgumentError("query.embedding", f"must be of real numbers, got {values.dtype}")
        values = values.astype(numpy.float32)
        if values.ndim != 1:
            raise InvalidArgumentError("query.embedding", f"must be a vector, got shape {list(values.shape)}")
        return Query(embedding=values, prompt=prompt, has_prompt=has_prompt)
    if isinstance(image, str | Path):
        return Query(image=read_file(Path(image), "query.image"), prompt=prompt)
    if isinstance(image, bytes | bytearray | memoryview):
        return Query(image=bytes(image), prompt=prompt)
    return Query(pixels=_checked(image), prompt=prompt)


def _checked(pixels: Any) -> NDArray[np.uint8]:
    shape: tuple[int, ...] = getattr(pixels, "shape", ())
    kind = str(getattr(pixels, "dtype", type(pixels).__name__))
    if kind != "uint8" or len(shape) != 3 or shape[2] != 3:
        raise InvalidArgumentError(
            "query.pixels", f"must be uint8 RGB [height, width, 3], got {kind} {list(shape)}"
        )
    array: NDArray[np.uint8] = pixels
    return array
