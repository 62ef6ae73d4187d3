"""`golden.npz`: queries and the answers that a server must give before it may serve the bundle."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attributary.errors import BundleError

GOLDEN = "golden.npz"


@dataclass(frozen=True)
class Golden:
    """G queries, half of them with a prompt, and their expected answers."""

    pixels: NDArray[np.uint8]  # [G, S, S, 3]
    token_ids: NDArray[np.int64]  # [G, T]
    token_mask: NDArray[np.int64]  # [G, T]
    embeddings: NDArray[np.float32]  # [G, D]
    ids: NDArray[np.int64]  # [G, k] item ids by descending similarity
    similarity: NDArray[np.float32]  # [G, k]
    share: NDArray[np.float32]  # [G, k]
    diffuse: NDArray[np.float32]  # [G]

    def write(self, path: Path) -> None:
        """Write the archive."""
        np.savez_compressed(path, **{entry.name: getattr(self, entry.name) for entry in fields(self)})

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Read the archive; raises BundleError naming it."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls(**{entry.name: archive[entry.name] for entry in fields(cls)})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(GOLDEN, f"cannot be read: {error}") from error
