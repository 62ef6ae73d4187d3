"""Which training items a query is labelled against: its nearest by features, and some from everywhere else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attributary_train.errors import TeacherError


@dataclass(frozen=True)
class CandidateSettings:
    """`nearest`: items most similar to the query; `outside`: drawn at random from the rest, so that a student also
    learns
    what is not influential and a miss of the features can be seen. Both 0: the whole corpus."""

    nearest: int = 200
    outside: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("nearest", "outside"):
            if getattr(self, name) < 0:
                raise TeacherError(f"candidates.{name}", f"{getattr(self, name)}; must not be negative")

    @property
    def everything(self) -> bool:
        """Whether the whole corpus is scored."""
        return self.nearest == 0 and self.outside == 0


def choose(
    name: str, similarity: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], settings: CandidateSettings
) -> npt.NDArray[np.int64]:
    """Candidate ids of a query, the nearest first, int64 [C]; similarity is float32 [N] over `ids`.

    The random part depends on the query's name and the seed alone. A corpus smaller than asked for is taken whole.
    """
    if settings.everything or settings.nearest + settings.outside >= len(ids):
        return ids.copy()
    order = np.lexsort((ids, -similarity))
    near, rest = order[: settings.nearest], order[settings.nearest :]
    seed = hashlib.blake2b(f"{settings.seed}\t{name}".encode(), digest_size=8).digest()
    pick = np.random.default_rng(int.from_bytes(seed, "little")).permutation(len(rest))[: settings.outside]
    chosen: npt.NDArray[np.int64] = ids[np.concatenate([near, np.sort(rest[pick])])]
    return chosen
