"""Shards of a data set: one Parquet file an exemplar, one row a generated picture."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from attributary_train.customization.plan import Planned
from attributary_train.errors import CustomizationError
from attributary_train.files import reading, whole

Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Shard:
    """What a customized model drew: `tuned` uint8 [P, S, S, 3], and `untuned`, what the subject itself makes of the
    same prompts and seeds; `facts`: hash of the tuned weights, losses.
    """

    tuned: Pictures
    untuned: Pictures
    facts: dict[str, Any]


def write_shard(path: Path, entry: Planned, shard: Shard) -> None:
    """Write Parquet with pictures as PNG; the same shard gives the same bytes; there whole or not at all."""
    rows = len(entry.prompts)
    table = pa.table(
        {
            "exemplar": [entry.name] * rows,
            "kind": [entry.exemplar.kind] * rows,
            "split": [entry.exemplar.split] * rows,
            "seen": [entry.exemplar.seen] * rows,
            "items": pa.array([list(entry.exemplar.ids)] * rows, pa.list_(pa.int64())),
            "family": [entry.family] * rows,
            "prompt": entry.prompts,
            "seed": pa.array(entry.seeds, pa.int64()),
            "picture": [_png(picture) for picture in shard.tuned],
            "untuned": [_png(picture) for picture in shard.untuned],
        }
    ).replace_schema_metadata({"customization": json.dumps(shard.facts, sort_keys=True)})
    with whole(path, CustomizationError) as stream:
        pq.write_table(table, stream, compression="none")


def read_shard(path: Path, entry: Planned) -> Shard:
    """Raises `CustomizationError` if the file is damaged or is another exemplar's."""
    with reading(path, CustomizationError, "not a readable shard, remove it"):
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {})[b"customization"])
        prompts, seeds = table["prompt"].to_pylist(), table["seed"].to_pylist()
        tuned = np.stack([_pixels(raw) for raw in cast(list[bytes], table["picture"].to_pylist())])
        untuned = np.stack([_pixels(raw) for raw in cast(list[bytes], table["untuned"].to_pylist())])
    if tuple(prompts) != entry.prompts or tuple(seeds) != entry.seeds:
        raise CustomizationError(str(path), "holds other prompts or seeds than the plan; remove it")
    return Shard(tuned, untuned, facts)


def _png(picture: Pictures) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _pixels(raw: bytes) -> Pictures:
    with Image.open(io.BytesIO(raw)) as picture:
        return np.asarray(picture.convert("RGB"))
