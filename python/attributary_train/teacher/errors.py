"""What can be wrong with a teacher, its factors or its labels."""

from __future__ import annotations

from attributary_train.errors import TrainError


class TeacherError(TrainError):
    """A setting, a file or a value that an attribution method cannot work with."""
