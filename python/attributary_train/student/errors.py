"""What can be wrong with a student, its labels or its configuration."""

from __future__ import annotations

from attributary_train.errors import TrainError


class StudentError(TrainError):
    """A file, a setting or a value that a student cannot be made of."""
