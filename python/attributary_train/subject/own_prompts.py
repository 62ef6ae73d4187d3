"""Prompts that people really asked a generator: from a file of lines, or from a log's column."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attributary_train.errors import SubjectError
from attributary_train.subject.prompts_split import enough
from attributary_train.subject.queries import SPLITS, Prompt

COLUMN = "prompt"


def own_prompts(
    path: Path, known: Collection[str], counts: Mapping[str, int], *, seed: int = 0
) -> list[Prompt]:
    """Choose prompts of a file for `counts` (split -> number), none in two splits, each with its own seed.

    One that stands in the file several times is asked as one; where there are fewer than wanted, they are repeated with
    other seeds. A prompt of `known`, those of the training set, is a "seen" one, every other "unseen". Raises
    `SubjectError` for a file that cannot be read or holds fewer prompts than splits that ask for some.
    """
    found = sorted(set(read_prompts(path)))
    rng = np.random.default_rng(seed)
    asking = sum(int(counts.get(name, 0)) > 0 for name in SPLITS)
    if len(found) < max(1, asking):
        raise SubjectError(
            str(path), f"holds {len(found)} different prompts; at least {max(1, asking)} are needed"
        )
    pool = enough([found[at] for at in rng.permutation(len(found))], counts)
    prompts = []
    for name in SPLITS:
        for _ in range(int(counts.get(name, 0))):
            text = pool.pop()
            prompts.append(
                Prompt(text, "seen" if text in known else "unseen", name, int(rng.integers(2**31)))
            )
    return prompts


def read_prompts(path: Path) -> list[str]:
    """Prompts of a .csv or .parquet with a column `prompt`, or of a text file, one a line; blank ones left out.

    Raises `SubjectError` naming the file.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            found: list[Any] = pq.read_table(path, columns=[COLUMN])[COLUMN].to_pylist()
        elif kind == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as stream:
                found = [row[COLUMN] for row in csv.DictReader(stream)]
        else:
            found = path.read_text(encoding="utf-8-sig").splitlines()
    except KeyError:
        raise SubjectError(str(path), f"has no column {COLUMN!r}") from None
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise SubjectError(str(path), f"prompts cannot be read: {error}") from error
    return [text for one in found if (text := " ".join(str(one or "").split()))]
