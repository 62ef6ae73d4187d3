"""What a run is asked to do, as far as its output depends on it; all of it is pinned in run.json."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from attributary.attribution.types import Filter
from attributary.errors import check_range

from .pictures import Access
from .prompts import ORIGINS

Engine = Literal["embedded", "gateway", "triton"]
Precision = Literal["fp32", "int8"]

MAX_ROWS_PER_SHARD = 1_000_000
MAX_BATCH_SIZE = 1_024
# Looked for in this order where no column is named.
IMAGE_COLUMNS = (
    "image", "uri", "path", "jpg", "jpeg", "png", "webp", "img", "picture", "image_bytes", "image_path", "file_name",
    "image_name", "file_path", "image_base64", "image_b64", "image_data", "base64",
)  # fmt: skip
PROMPT_COLUMNS = ("prompt", "positive_prompt", "caption", "text", "txt")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a Parquet log's columns.

    `image` holds encoded bytes, a path or URI, base64, or a struct of `bytes` and `path`; None takes the first of
    `IMAGE_COLUMNS` that is there. The others may be missing unless they are named. A dotted name is a struct's field.
    """

    id: str | None = None
    image: str | None = None
    prompt: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class RowLimits:
    """What one row may cost; a row beyond a limit becomes an error row."""

    max_image_bytes: int = 20 * 1024 * 1024
    max_image_pixels: int = 50_000_000
    max_prompt_bytes: int = 8 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """A run's settings. `pass_through` None takes every column that is not read otherwise."""

    columns: Columns = field(default_factory=Columns)
    pass_through: tuple[str, ...] | None = None
    top_k: int = 10
    filter: Filter = field(default_factory=Filter)
    engine: Engine = "embedded"
    precision: Precision = "fp32"  # of the embedded engine
    batch_size: int = 8
    rows_per_shard: int = 512
    limits: RowLimits = field(default_factory=RowLimits)
    prompt_from: tuple[str, ...] = ORIGINS  # where prompts are looked for, in this order
    access: Access = field(default_factory=Access)

    def check(self) -> None:
        """Raise InvalidArgumentError naming the setting that is out of its limits."""
        for name, value, most in (
            ("batch_size", self.batch_size, MAX_BATCH_SIZE),
            ("rows_per_shard", self.rows_per_shard, MAX_ROWS_PER_SHARD),
            ("top_k", self.top_k, 1_000),
        ):
            check_range(name, value, 1, most)
        for name, value in asdict(self.limits).items():
            check_range(name, value, 1)

    def pinned(self, root: Path) -> dict[str, Any]:
        """JSON-ready values in a fixed order; directories as seen from `root`, so that a log may be moved with them."""
        places = [os.path.relpath(place, root) for place in self.access.roots]
        return asdict(self) | {"access": {"roots": places, "uris": list(self.access.uris)}}
