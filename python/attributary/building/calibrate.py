"""First share parameters, from probes: until a teacher's influence is at hand to calibrate against.

A probe is a copy whose origin is known. The background is set so that the median copy, were its origin not among the
items, would leave the target share to nobody; the temperature so that the median copy gives its origin's near-duplicate
group the target share, with a prompt also the median of the copies whose prompt is not their origin's caption.
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
COLDEST = 1e-3  # of the temperatures that are tried
METHOD = (
    f"copy probes: the median copy gives its origin a share of {TARGET_SHARE}, with its caption or another as prompt, "
    f"and nobody the same share once its origin is taken out; out of distribution is below the {OOD_FALSE_ALARMS:.0%} "
    f"quantile of the best similarity without the origin; where no temperature does that, shares are nobody's; not "
    f"calibrated against influence"
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
        found.append(_calibrate(probes.take(chosen), vectors, items, index, candidates))
    return Calibration(METHOD, image=found[0], image_and_prompt=found[1])


def _calibrate(
    probes: Probes,
    vectors: NDArray[np.float16],
    items: ItemTable,
    index: VectorIndex,
    candidates: int,
) -> ShareCalibration:
    rows, embeddings = probes.rows, probes.embeddings
    near = index.search(embeddings, min(candidates, len(items)))
    similarity = np.einsum("qrd,qd->qr", vectors[np.maximum(near, 0)].astype(np.float32), embeddings)
    similarity[near < 0] = -1.0
    own = items.group_of_row[near] == items.group_of_row[rows][:, None]
    without = np.where(own, -np.inf, similarity)
    other = np.maximum(without.max(axis=1), -1.0)
    # The median of all would lie between the two kinds and be neither's.
    kinds = [kind for kind in (probes.other_prompt, ~probes.other_prompt) if kind.any()]
    low, high = COLDEST, 0.5
    for _ in range(20):
        temperature = (low * high) ** 0.5
        background = _background(without, other, temperature)
        shares = _origin_shares(rows, embeddings, near, vectors, items, temperature, background)
        share = min(float(np.median(shares[kind])) for kind in kinds)
        low, high = (temperature, high) if share > TARGET_SHARE else (low, temperature)
    # Where none is reached whoever lies nearest would have all of a stranger's picture, too: nobody has anything.
    background = 1.0 if low == COLDEST else _background(without, other, low)
    return ShareCalibration(
        temperature=round(low, 6),
        threshold=THRESHOLD,
        background=round(background, 6),
        ood_similarity=round(float(np.quantile(other, OOD_FALSE_ALARMS)), 6),
    )


def _background(without: NDArray[np.float32], best: NDArray[np.float32], temperature: float) -> float:
    """The null item's cosine at which the median probe leaves `TARGET_SHARE` to nobody.

    `without` [P, R]: similarities of all candidates but the origin's group, which is -inf; `best` [P]: the largest.
    The null item must outweigh all of them together: many that resemble a picture a little are no source of it.
    """
    weight = np.maximum(np.exp((without - best[:, None]) / temperature).sum(axis=1), 1.0)
    needed = best + temperature * (np.log(weight) + np.log(TARGET_SHARE / (1.0 - TARGET_SHARE)))
    return min(float(np.median(needed)), 1.0)


def _origin_shares(
    rows: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    near: NDArray[np.int64],
    vectors: NDArray[np.float16],
    items: ItemTable,
    temperature: float,
    background: float,
) -> NDArray[np.float32]:
    """The share of each origin's group, float32 [P], found by making each group its own creator."""
    shares = np.array([temperature, THRESHOLD, background, 0, -np.inf, 0, 0, 1, 1], np.float32)
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
    return np.asarray(np.where(mine, scored.creator_share, 0).sum(axis=1), np.float32)
