"""Rows of features kept on disk by what they were computed from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attributary_train.towers.rows import FloatArray

# Rows a cache file holds, and so the work that a killed run loses at most.
_SHARD = 512


class FeatureCache:
    """Rows of float32 [dim] by key, in a folder of .npz shards that are only ever added."""

    def __init__(self, folder: Path, name: str, dim: int) -> None:
        self._folder = folder
        self._name = name
        self._dim = dim
        self._rows: dict[str, FloatArray] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for shard in sorted(folder.glob(f"{name}-*.npz")):
            with np.load(shard, allow_pickle=False) as file:
                self._rows.update(zip(file["keys"].tolist(), file["rows"], strict=True))

    def rows(
        self, keys: Sequence[str], compute: Callable[[Sequence[int]], FloatArray], batch: int
    ) -> FloatArray:
        """Rows of these keys, [N, dim].

        `compute` gets positions in `keys` of rows that are not kept yet, up to `batch` at a time.
        """
        first: dict[str, int] = {}
        for position, key in enumerate(keys):
            if key not in self._rows:
                first.setdefault(key, position)
        missing = list(first.items())
        bar = tqdm(total=len(missing), desc=f"{self._name.split('-')[0]} features", disable=not missing)
        with bar:
            for start in range(0, len(missing), _SHARD):
                shard = missing[start : start + _SHARD]
                parts = []
                for at in range(0, len(shard), batch):
                    parts.append(compute([position for _, position in shard[at : at + batch]]))
                    bar.update(len(parts[-1]))
                self._add([key for key, _ in shard], np.concatenate(parts))
        if not keys:
            return np.zeros((0, self._dim), np.float32)
        return np.stack([self._rows[key] for key in keys])

    def _add(self, keys: list[str], rows: FloatArray) -> None:
        tag = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        partial = self._folder / f".{self._name}-{tag}.partial.npz"
        np.savez(partial, keys=np.array(keys), rows=rows)
        partial.replace(self._folder / f"{self._name}-{tag}.npz")
        self._rows.update(zip(keys, rows, strict=True))
