"""What can be wrong with a calibration's inputs."""

from __future__ import annotations

from attributary_train.errors import TrainError


class CalibrationError(TrainError):
    """`field` names what is wrong, `reason` says how and what the limit is."""


class NoLabelError(CalibrationError):
    """No query of the split has a label: none was asked for, or the teacher failed on each."""
