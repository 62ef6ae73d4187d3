"""What can go wrong on the road."""

from __future__ import annotations

from attributary_train.errors import TrainError


class OwnError(TrainError):
    """`what` names the input or the step at fault, the reason says what would help."""
