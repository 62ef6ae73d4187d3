"""First share parameters, from probes: until a teacher's influence is at hand to calibrate against.

A probe is a copy whose origin is known. The background is the similarity that a picture reaches with its best item
although none is its origin; the temperature is set so that the median copy gives its origin's near-duplicate group
the target share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attributary import kernels
from attributary.bundle.items import ItemTable
from attributary.bundle.manifest import Calibration, ShareCalibration
from attributary.index.base import VectorIndex

from .embed import Probes

TARGET_SHARE = 0.8
THRESHOLD = 0.02
OOD_FALSE_ALARMS = 0.01
METHOD = (
    f"copy probes: background is the median similarity to the best item that is not the origin, temperature gives the "
    f"median copy's origin a share of {TARGET_SHARE}, out of distribution is below the {OOD_FALSE_ALARMS:.0%} quantile "
    f"of that similarity; not calibrated against influence"
)


def calibrate(
    probes: Probes, vectors: NDArray[np.float16], items: ItemTable, index: VectorIndex, candidates: int
) -> Calibration:
    """Return share parameters for queries with and without a prompt."""
    with_prompt = probes.has_prompt
    found = []
    for chosen in (~with_prompt, with_prompt):
        if not chosen.any():
            # A single probe cannot be split; both kinds then share what is known.
            chosen = np.ones(len(with_prompt), bool)
        found.append(
            _calibrate(probes.rows[chosen], probes.embeddings[chosen], vectors, items, index, candidates)
        )
    return Calibration(METHOD, image=found[0], image_and_prompt=found[1])


def _calibrate(
    rows: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    vectors: NDArray[np.float16],
    items: ItemTable,
    index: VectorIndex,
    candidates: int,
) -> ShareCalibration:
    near = index.search(embeddings, min(candidates, len(items)))
    similarity = np.einsum("qrd,qd->qr", vectors[np.maximum(near, 0)].astype(np.float32), embeddings)
    similarity[near < 0] = -1.0
    own = items.group_of_row[near] == items.group_of_row[rows][:, None]
    other = np.where(own, -1.0, similarity).max(axis=1)
    background = float(np.median(other))
    low, high = 1e-3, 0.5
    for _ in range(20):
        temperature = (low * high) ** 0.5
        share = _origin_share(rows, embeddings, near, vectors, items, temperature, background)
        low, high = (temperature, high) if share > TARGET_SHARE else (low, temperature)
    return ShareCalibration(
        temperature=round(low, 6),
        threshold=THRESHOLD,
        background=round(background, 6),
        ood_similarity=round(float(np.quantile(other, OOD_FALSE_ALARMS)), 6),
    )


def _origin_share(
    rows: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    near: NDArray[np.int64],
    vectors: NDArray[np.float16],
    items: ItemTable,
    temperature: float,
    background: float,
) -> float:
    """The median share of the origin's group, found by making each group its own creator."""
    shares = np.array([temperature, THRESHOLD, background, 0, -np.inf], np.float32)
    scored = kernels.rescore(
        embeddings,
        near,
        vectors,
        items.group_of_row,
        items.group_of_row,
        np.tile(shares, (len(rows), 1)),
        top_k=1,
        top_creators=near.shape[1],
    )
    mine = scored.creators == items.group_of_row[rows][:, None]
    return float(np.median(np.where(mine, scored.creator_share, 0).sum(axis=1)))
