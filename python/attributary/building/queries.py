"""Pictures with prompts in a folder: `queries.json` beside them. What a student's bundle is probed and checked with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attributary.encoder.base import Encoder
from attributary.encoder.text import PromptTokenizer
from attributary.errors import InvalidArgumentError
from attributary.pictures import prepare_pixels

from .embed import Probes, encode, read_picture

QUERIES = "queries.json"
_BATCH = 16


@dataclass(frozen=True, slots=True)
class QueryPicture:
    """One entry of `queries.json`; `facts` is all that it says."""

    path: Path
    prompt: str
    generated: bool  # False: a picture that the generator did not make
    facts: Mapping[str, Any]


def read_queries(directory: Path) -> list[QueryPicture]:
    """Read `queries.json`: {"queries": [{"file", "prompt", "generated", ...}]}; raises InvalidArgumentError."""
    path = directory / QUERIES
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["queries"]
        found = [
            QueryPicture(
                directory / str(entry["file"]), str(entry["prompt"]), bool(entry["generated"]), dict(entry)
            )
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgumentError("queries", f"{path} cannot be read: {error!r}") from error
    if not any(one.generated for one in found):
        raise InvalidArgumentError("queries", f"{path} names no generated picture")
    return found


def query_probes(
    query_pictures: Sequence[QueryPicture], encoder: Encoder, tokenizer: PromptTokenizer
) -> Probes:
    """Embed the generated pictures, each with its prompt and without one; `rows` of the probes are -1."""
    chosen = [one for one in query_pictures if one.generated]
    pictures = [prepare_pixels(read_picture(one.path, None), encoder.spec.image_size) for one in chosen]
    pixels = [picture for picture in pictures for _ in range(2)]
    tokens = [tokenizer.encode(prompt) for one in chosen for prompt in ("", one.prompt)]
    parts = [
        encode(
            encoder.encode,
            tokenizer,
            list(zip(pixels[at : at + _BATCH], tokens[at : at + _BATCH], strict=True)),
        )
        for at in range(0, len(pixels), _BATCH)
    ]
    rows = np.full(len(pixels), -1, np.int64)
    return Probes(rows, np.stack(pixels), tokens, np.concatenate(parts), np.zeros(len(pixels), bool))
