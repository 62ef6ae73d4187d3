"""A corpus as small squares: decoded once, kept in one file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from attributary_train.corpus import Corpus
from attributary_train.errors import SubjectError
from attributary_train.files import whole


def corpus_digest(corpus: Corpus) -> str:
    """SHA-256 over (id, SHA-256 of the picture, caption) of the items in order; hexadecimal."""
    total = hashlib.sha256()
    for item in corpus:
        total.update(f"{item.id}\t{item.sha256}\t{item.caption}\n".encode())
    return total.hexdigest()


def squares(corpus: Corpus, size: int, cache: Path) -> npt.NDArray[np.uint8]:
    """Return every picture as uint8 [N, size, size, 3], in corpus order; memory-mapped from `cache` once made.

    Raises `CorpusError` for a picture that is gone or damaged, `SubjectError` if the file cannot be written.
    """
    path = cache / f"squares-{size}-{corpus_digest(corpus)[:16]}.npy"
    if not path.exists():
        with whole(path, SubjectError) as stream:
            _write(corpus, size, stream)
    loaded: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return loaded


def _write(corpus: Corpus, size: int, stream: IO[bytes]) -> None:
    """One picture after the other: those of a large corpus are more than memory holds."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(corpus), size, size, 3)}
    np.lib.format.write_array_header_1_0(stream, header)
    for item in corpus:
        stream.write(np.ascontiguousarray(corpus.square(item.id, size)).data)
