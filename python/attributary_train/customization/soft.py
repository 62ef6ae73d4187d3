"""Soft influence scores: a temperature and a threshold that turn cosines into shares (Wang et al., ICCV 2023).

While fitting, the threshold cuts through a softplus, so that its gradient is everywhere; what is served cuts with a
ReLU, so that there are exact zeros. Added to the publication: the null item of docs/architecture.md. It is fitted by
asking every query twice, with its exemplar among the distractors and without; without, all mass belongs to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from attributary.bundle.manifest import ShareCalibration
from attributary_train.calibration.reliability import Reliability, reliability
from attributary_train.customization.gallery import Embedded, Gallery
from attributary_train.errors import CustomizationError
from attributary_train.evaluation.shares import Columns, shares_of

CANDIDATES = 200
MIN_QUERIES = 10
# The published softplus has 100; with hundreds of candidates its tails would outweigh the scores.
_SHARPNESS = 2000.0
_STEPS = 600
_OOD_FALSE_ALARMS = 0.01
_SHOWN = 10
# The publication's start: a plain softmax of cosines, cut nowhere.
PLAIN = ShareCalibration(temperature=1.0, threshold=0.0, background=-np.inf, ood_similarity=-1.0)
FloatMatrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Queried:
    """Cosines float32 [Q, R] of queries to their best candidates and what is true of them: `target` float64 [Q, R],
    1 / n for each of an exemplar's n items; `nobody` float64 [Q], the mass that is no candidate's; `there` bool [Q],
    whether the exemplar was among the distractors; `whose` int64 [Q]."""

    cosines: npt.NDArray[np.float32]
    target: FloatMatrix
    nobody: npt.NDArray[np.float64]
    there: npt.NDArray[np.bool_]
    whose: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.bool_]) -> Queried:
        """Some of the queries."""
        return Queried(
            self.cosines[rows], self.target[rows], self.nobody[rows], self.there[rows], self.whose[rows]
        )


def ask(
    gallery: Gallery, embedded: Embedded, rows: npt.NDArray[np.int64], candidates: int = CANDIDATES
) -> Queried:
    """Every query of `rows` twice: with its exemplar's items among the distractors, and without them.

    The best `candidates` take part, as they come from an index; an exemplar's items beyond them have no column, and
    their mass is then nobody's.
    """
    if not len(rows):
        raise CustomizationError("queries", "there are none of this split")
    distractors = embedded.items[gallery.distractor_rows]
    shape = (2 * len(rows), min(candidates, len(distractors)))
    # A style has fewer rivals than an object; what fills its row up can never have a share.
    cosines, targets = np.full(shape, -1.0, np.float32), np.zeros(shape)
    for at, row in enumerate(rows):
        exemplar = int(gallery.whose[row])
        query = embedded.queries[row]
        own = embedded.items[gallery.exemplar_rows[exemplar]] @ query
        rivals = distractors[gallery.rivals(exemplar)] @ query
        for place, pool, mine in (
            (2 * at, np.concatenate([own, rivals]), len(own)),
            (2 * at + 1, rivals, 0),
        ):
            best = np.argsort(-pool, kind="stable")[: shape[1]]
            cosines[place, : len(best)] = pool[best]
            targets[place, : len(best)] = (best < mine) / max(1, mine)
    whose = np.repeat(gallery.whose[rows], 2)
    there = np.tile([True, False], len(rows))
    return Queried(cosines, targets, 1.0 - targets.sum(axis=1), there, whose)


def fit(queried: Queried) -> ShareCalibration:
    """Temperature, threshold and background by least KL divergence from the exemplar distribution.

    Raises `CustomizationError` with fewer than 10 queries.
    """
    if len(queried.cosines) < 2 * MIN_QUERIES:
        raise CustomizationError(
            "queries", f"{len(queried.cosines) // 2}; at least {MIN_QUERIES} are needed to fit"
        )
    cosines, target = torch.from_numpy(queried.cosines).double(), torch.from_numpy(queried.target)
    nobody = torch.from_numpy(queried.nobody)
    absent = queried.cosines[~queried.there, 0]
    point = torch.tensor([np.log(0.05), np.log(0.01), float(np.median(absent))], dtype=torch.float64)
    point.requires_grad_(True)
    optimiser = torch.optim.Adam([point], 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        loss = _divergence(point, cosines, target, nobody)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    log_temperature, log_threshold, background = point.detach().tolist()
    return ShareCalibration(
        temperature=round(float(np.exp(np.clip(log_temperature, -8.0, 2.0))), 6),
        threshold=round(float(np.exp(np.clip(log_threshold, -12.0, -0.01))), 6),
        background=round(float(np.clip(background, -1.0, 2.0)), 6),
        ood_similarity=round(float(np.quantile(absent, _OOD_FALSE_ALARMS)), 6),
    )


def _divergence(point: Tensor, cosines: Tensor, target: Tensor, nobody: Tensor) -> Tensor:
    """KL of the exemplar distribution from the smooth shares, but for the target's own entropy."""
    temperature, threshold, background = point[0].exp(), point[1].exp(), point[2]
    peak = torch.maximum(cosines.max(dim=1).values, background)[:, None]
    weight = F.softplus(
        ((cosines - peak) / temperature).exp() - threshold, beta=_SHARPNESS, threshold=50.0 / _SHARPNESS
    )
    null = ((background - peak[:, 0]) / temperature).exp()
    norm = (null + weight.sum(dim=1)).log()
    loss_terms = target * (weight.clamp(min=1e-12).log() - norm[:, None])
    return -(loss_terms.sum(dim=1) + nobody * (null.clamp(min=1e-12).log() - norm)).mean()


def shares(queried: Queried, calibration: ShareCalibration) -> tuple[FloatMatrix, npt.NDArray[np.float64]]:
    """Served shares float64 [Q, R] and diffuse parts [Q]: the formula of docs/architecture.md, with the ReLU."""
    columns = Columns.of(np.arange(queried.cosines.shape[1]))
    return shares_of(queried.cosines, columns, calibration)


def diagram(queried: Queried, calibration: ShareCalibration) -> Reliability:
    """Promised shares of every query's first ten items against the mass that was truly theirs."""
    promised, _ = shares(queried, calibration)
    shown = min(_SHOWN, promised.shape[1])
    whose = np.repeat(queried.whose, shown)
    return reliability(promised[:, :shown].ravel(), queried.target[:, :shown].ravel(), whose)


def nobody_diagram(queried: Queried, calibration: ShareCalibration) -> Reliability:
    """Promised diffuse parts against whether nobody was there to be found."""
    _, diffuse = shares(queried, calibration)
    return reliability(diffuse, queried.nobody, queried.whose)
