"""`manifest.json`: what a bundle is, what belongs together in it, and the SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attributary.errors import BundleError

from .files import write_whole
from .parse import MisfitError, parse

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
# How a picture becomes the encoder's square: its short side is scaled, and the centre of the long one is kept.
CROP = "crop"
# How many groups can be told to have a share at most: the kernels count in float32.
MAX_REACH = 2**24
MAX_KNOTS = 64
# Of the one set of statistics that this build computes: `attributary.attribution.pixel_statistics`.
PIXEL_STATISTICS = "edges-1"
PIXEL_STATISTICS_COUNT = 46
# The note that says why a bundle has no int8 encoder although its export brought one.
INT8_LEFT_OUT = "int8_left_out"


@lru_cache(64)
def _columns(table: tuple[tuple[float, float, float], ...]) -> NDArray[np.float64]:
    """The columns of a table of intervals, float64 [3, n]."""
    return np.array(table, np.float64).T.copy()


@dataclass(frozen=True, slots=True)
class ShareCalibration:
    """How similarities become shares (see `attributary.kernels.rescore`)."""

    temperature: float  # cosine units; above 0
    threshold: float  # relative weight below which a share is exactly 0; in [0, 1)
    background: float  # cosine of the null item that takes the diffuse share
    ood_similarity: float  # a query whose best cosine is below this resembles nothing known
    diffuse_floor: float = 0.0  # part of every answer that is nobody's, whatever it resembles; in [0, 1)
    # Cosine units above `ood_similarity` within which shares rise from nothing to whole.
    ood_margin: float = 0.0
    reach: int = 0  # at most so many near-duplicate groups get a share; 0: all of them
    reach_cut: float = 1.0  # the part that they lose of the weight of the first group out of reach; in [0, 1]
    reach_null: float = 1.0  # times that weight is nobody's; above 0
    # Rows (a creator's share, low, high), rising: between what such a creator's influence lies nine times in ten.
    interval: tuple[tuple[float, float, float], ...] = ()

    def between(self, shares: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Ends of the intervals of creators' shares, which lie within; all of one shape. None without a table."""
        if not self.interval:
            return None
        at, low, high = _columns(self.interval)
        return np.minimum(shares, np.interp(shares, at, low)), np.maximum(shares, np.interp(shares, at, high))

    def problem(self) -> str | None:
        """What is out of range, by its name; None if nothing is."""
        # What copies are calibrated from may have no null item and no flag: minus infinity.
        for name, fits, wanted in (
            ("temperature", 0 < self.temperature < math.inf, "above 0 and finite"),
            ("threshold", 0 <= self.threshold < 1, "in [0, 1)"),
            ("background", self.background < math.inf, "a number below infinity"),
            ("ood_similarity", self.ood_similarity < math.inf, "a number below infinity"),
            ("diffuse_floor", 0 <= self.diffuse_floor < 1, "in [0, 1)"),
            ("ood_margin", 0 <= self.ood_margin < math.inf, "at least 0 and finite"),
            ("reach", 0 <= self.reach <= MAX_REACH, f"from 0 to {MAX_REACH}"),
            ("reach_cut", 0 <= self.reach_cut <= 1, "in [0, 1]"),
            ("reach_null", 0 < self.reach_null < math.inf, "above 0 and finite"),
        ):
            if not fits:
                return f"{name} {getattr(self, name)}, must be {wanted}"
        return self._interval_problem()

    def _interval_problem(self) -> str | None:
        if not self.interval:
            return None
        if len(self.interval) > MAX_KNOTS or any(len(row) != 3 for row in self.interval):
            return f"interval must be at most {MAX_KNOTS} rows of share, low and high"
        table = np.array(self.interval, np.float64)
        inside = bool(((table >= 0) & (table <= 1)).all()) and bool((table[:, 1] <= table[:, 2]).all())
        steps = np.diff(table, axis=0)
        if not inside or not (steps >= 0).all() or not (steps[:, 0] > 0).all():
            return "interval must rise within [0, 1], low at most high"
        return None


@dataclass(frozen=True, slots=True)
class PixelFlag:
    """How far a picture's low-level statistics may lie from the generator's; nothing where `mean` is empty.

    The distance is the logarithm of the mean square of `whiten` (statistics - `mean`). Beyond `limit` a picture is not
    of this generator; over `margin` below it shares rise from nothing to whole.
    """

    statistics: str = ""  # which they are
    mean: tuple[float, ...] = ()  # [D]
    whiten: tuple[tuple[float, ...], ...] = ()  # [D, D]
    limit: float = 0.0
    margin: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.mean)

    def distance(self, statistics: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of each picture, [Q], from statistics [Q, D]."""
        mean, whiten = np.array(self.mean), np.array(self.whiten)
        # Row by row: products of matrices and logarithms of many may differ in the last bit from those of one.
        apart = ((statistics.astype(np.float64, order="C") - mean)[:, None, :] * whiten).sum(axis=2)
        return np.array([math.log(square + 1e-12) for square in np.square(apart).mean(axis=1)], np.float64)

    def certainty(self, statistics: NDArray[np.float32]) -> NDArray[np.float64]:
        """The part of each answer that its items may have, [Q]: 0 from the limit on, 1 a margin below it."""
        below = self.limit - self.distance(statistics)
        if self.margin > 0:
            return np.asarray(np.clip(below / self.margin, 0.0, 1.0), np.float64)
        return np.asarray(below > 0, np.float64)

    def problem(self) -> str | None:
        """What is wrong, by its name; None if nothing is."""
        if not self:
            return None
        if self.statistics != PIXEL_STATISTICS:
            return f"statistics are {self.statistics!r}, this build knows {PIXEL_STATISTICS!r}"
        count = PIXEL_STATISTICS_COUNT
        if not len(self.mean) == len(self.whiten) == count or any(len(row) != count for row in self.whiten):
            return f"mean must be {count} numbers and whiten {count} rows of as many"
        if not np.isfinite([self.limit, self.margin, *self.mean, *sum(self.whiten, ())]).all():
            return "must hold finite numbers"
        return None if self.margin >= 0 else f"margin {self.margin}, must be at least 0"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Share calibrations: cosines with and without a prompt are on different scales."""

    method: str  # how the parameters were found
    image: ShareCalibration
    image_and_prompt: ShareCalibration
    pixels: PixelFlag = PixelFlag()

    def of(self, has_prompt: bool) -> ShareCalibration:
        """Return the calibration for a query with or without a prompt."""
        return self.image_and_prompt if has_prompt else self.image

    def problem(self) -> str | None:
        """What is wrong, by its path; None if nothing is."""
        for name in ("image", "image_and_prompt", "pixels"):
            if problem := getattr(self, name).problem():
                return f"{name}.{problem}"
        return None


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """The encoder that made the vectors, and how a picture reaches it."""

    name: str
    digest: str  # SHA-256 of the ONNX file that made the vectors
    dim: int
    image_size: int  # pixels
    max_tokens: int
    preprocessing: str  # in words, e.g. "pillow-13 bicubic short side, centre crop, uint8 RGB"
    # How any picture, item or query, becomes a square. Empty in bundles from before it was named: queries were cropped.
    fit: str = ""
    lengths: bool = False  # items' lengths lie in the last dimension, which queries have as 0
    # With lengths: cosine of an item's own picture with the item's direction. No embedding is nearer; 0: not limited.
    own_cosine: float = 0.0


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """The candidate index and what it was measured to reach."""

    factory: str  # FAISS factory string
    encoder_digest: str  # of the vectors that were indexed
    nprobe: int  # lists, or of a graph efSearch; 0 where the index has neither
    candidates: int  # R: how many candidates are re-scored
    recall_at_10: float  # after re-scoring, against exact search over the same vectors
    recall_queries: int  # how many queries that was measured on
    bytes_per_item: float  # index file only
    vector_bytes_per_item: float  # the memory-mapped store beside it


@dataclass(frozen=True, slots=True)
class SubjectEntry:
    """The generator whose training images are attributed."""

    id: str
    weights_digest: str  # empty for an untuned bundle that knows no generator


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says of itself. Its id is the SHA-256 of the rest. Not to be changed, its dicts included."""

    schema_version: int
    version: str
    subject: SubjectEntry
    student: str
    encoder: EncoderEntry
    index: IndexEntry
    calibration: Calibration
    item_count: int  # rows; withheld ones among them
    creator_count: int
    files: dict[str, str]  # name -> SHA-256, hex; every file of the bundle but this one
    notes: dict[str, str] = field(default_factory=dict)
    vectors_made_by: str = ""  # "encoder", "trained", or empty in bundles from before it was said
    withheld_count: int = 0  # rows of deleted items, whose vectors count in the sum of shares only
    names_in_prompts: str = ""  # "read": creators' names in prompts move shares; else they are left out
    delta: bool = False  # whether `delta/<id>.log` is part of the bundle; no part of the id

    @cached_property
    def digest(self) -> str:
        """The SHA-256, hex, of the manifest's canonical JSON without its id and `delta`."""
        return hashlib.sha256(_canonical(_plain(self)).encode()).hexdigest()

    @property
    def bundle_id(self) -> str:
        """The first 16 hex digits of `digest`."""
        return self.digest[:16]

    @property
    def vectors_are_trained(self) -> bool:
        """Whether item vectors came out of training, so that the encoder cannot say where another item would lie.

        Of a bundle from before that was said: whether it was made for a generator, or of a student.
        """
        if self.vectors_made_by:
            return self.vectors_made_by != "encoder"
        return bool(self.subject.weights_digest) or "student_digest" in self.notes

    def write(self, directory: Path) -> None:
        """Write `manifest.json`, the last file of a bundle to appear."""
        facts = {"bundle_id": self.bundle_id, **_plain(self)} | ({"delta": True} if self.delta else {})
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        write_whole(directory / MANIFEST, (text + "\n").encode())

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read and check `manifest.json`; raises BundleError naming it."""
        path = directory / MANIFEST
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BundleError(MANIFEST, f"is missing from {directory}; this is not a bundle") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BundleError(MANIFEST, f"cannot be read: {error}") from error
        if not isinstance(raw, dict):
            raise BundleError(MANIFEST, "must hold one JSON object")
        found = raw.get("schema_version")
        if found != SCHEMA_VERSION:
            raise BundleError(
                MANIFEST,
                f"schema_version is {found!r}, this build reads {SCHEMA_VERSION}; use a matching release",
            )
        claimed = raw.pop("bundle_id", None)
        try:
            manifest = parse(cls, raw)
        except MisfitError as error:
            raise BundleError(MANIFEST, str(error)) from None
        if problem := manifest.calibration.problem():
            raise BundleError(MANIFEST, f"calibration.{problem}")
        if not 0 <= manifest.encoder.own_cosine <= 1:
            raise BundleError(
                MANIFEST, f"encoder.own_cosine {manifest.encoder.own_cosine}, must be in [0, 1]"
            )
        if manifest.names_in_prompts not in ("", "read"):
            raise BundleError(
                MANIFEST, f"names_in_prompts is {manifest.names_in_prompts!r}, must be 'read' or absent"
            )
        if claimed != manifest.bundle_id:
            raise BundleError(
                MANIFEST, f"bundle_id is {claimed!r} but its contents say {manifest.bundle_id!r}"
            )
        return manifest


def _plain(part: Any) -> dict[str, Any]:
    """What the id is made of. Later entries are left out at their defaults: bundles from before keep their ids."""
    found: dict[str, Any] = {}
    for entry in fields(part):
        value = getattr(part, entry.name)
        if entry.name == "delta" or (entry.default is not MISSING and value == entry.default):
            continue
        if isinstance(value, PixelFlag):  # came as a whole
            value = asdict(value)
        found[entry.name] = _plain(value) if is_dataclass(value) else value
    return found


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
