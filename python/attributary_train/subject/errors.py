"""What can be wrong with a subject model or its data."""

from __future__ import annotations

from attributary_train.errors import TrainError


class SubjectError(TrainError):
    """A field of a recipe, a file of a checkpoint, or a corpus that does not fit a model."""
