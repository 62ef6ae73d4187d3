"""What can be wrong with scores, retrained models or a protocol's settings."""

from __future__ import annotations

from attributary_train.errors import TrainError


class EvaluationError(TrainError):
    """A file, a setting or a value that an evaluation cannot work with."""
