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


def item_names(ids: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """How items are called in a score file whose queries they are."""
    return tuple(f"item-{number}" for number in ids.tolist())


def cut_diagonal(kernel: Tensor) -> Tensor:
    """float32 [N, N], N of at least 2, with each row's own entry at `SELF` times its largest other."""
    if kernel.shape[0] < 2:
        raise StudentError("items", "there is one; it has no other to be compared with")
    found, own = kernel.clone(), torch.eye(len(kernel), dtype=torch.bool)
    most = found.masked_fill(own, -torch.inf).amax(1)
    # A row whose others are all below zero still puts itself first.
    found[own] = torch.maximum(most * SELF, most + most.abs() * (SELF - 1.0))
    return found


def item_scores(method: Trak, data: SubjectData, model: SubjectModel) -> ScoreFile:
    """A fitted method's scores with the items as queries, named by `item_names`."""
    facts = {"self": SELF, "splits": ["train"]}
    return ScoreFile(
        f"{method.name} of items",
        cut_diagonal(method.between_items()).numpy().astype(np.float32),
        item_names(data.ids),
        data.ids.copy(),
        model.weights,
        facts,
    )
