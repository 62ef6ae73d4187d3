"""Items as queries: what a method of projected gradients says of every item about every other, without another pass.

TRAK and D-TRAK keep what they computed of the items. Their kernel between items is as many lists more to learn
from, and teaches that an item is the first of its own list.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary_train.errors import StudentError
from attributary_train.evaluation.scores import ScoreFile
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.teacher.trak import Trak

# An item's own score is mostly noise that its two sides share, not influence: cut to this many times its largest other.
SELF = 1.5
# Items that are asked about by default.
LIMIT = 2000


def item_names(ids: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """How items are called in a score file whose queries they are."""
    return tuple(f"item-{number}" for number in ids.tolist())


def asked_items(total: int, limit: int) -> npt.NDArray[np.int64]:
    """Which of the items are queries, `limit` at most, spread evenly: a student's time grows with items times lists."""
    StudentError.if_below(1, limit=limit)
    return np.unique(np.linspace(0, total - 1, min(limit, total)).round().astype(np.int64))


def cut_own(kernel: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
    """float32 [R, N], N of at least 2: each row's own item, `rows` [R], gets `SELF` times its largest other."""
    if kernel.shape[1] < 2:
        raise StudentError("items", "there is one; it has no other to be compared with")
    found, own = kernel.clone(), torch.zeros(kernel.shape, dtype=torch.bool)
    own[torch.arange(len(rows)), torch.from_numpy(rows)] = True
    most = found.masked_fill(own, -torch.inf).amax(1)
    # A row whose others are all below zero still puts itself first.
    found[own] = torch.maximum(most * SELF, most + most.abs() * (SELF - 1.0))
    return found


def item_scores(method: Trak, data: SubjectData, model: SubjectModel, limit: int = LIMIT) -> ScoreFile:
    """A fitted method's scores with items as queries, `limit` at most, named by `item_names`."""
    rows = asked_items(len(data), limit)
    facts = {"self": SELF, "splits": ["train"]}
    return ScoreFile(
        f"{method.name} of items",
        cut_own(method.between_items(rows), rows).numpy().astype(np.float32),
        item_names(data.ids[rows]),
        data.ids.copy(),
        model.weights,
        facts,
    )
