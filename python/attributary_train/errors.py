"""What goes wrong on purpose in this package: every part has its kind, and all are shown to a user in one way."""

from __future__ import annotations

from attributary.errors import AttributaryError


class TrainError(AttributaryError):
    """`field` names the setting, file or value that is wrong, `reason` says how and what the limit is."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason

    @classmethod
    def if_below(cls, least: int, prefix: str = "", **values: float) -> None:
        """Raise one naming the first of `values` that is below `least`, `prefix` before its name."""
        for name, value in values.items():
            if value < least:
                raise cls(prefix + name, f"{value}; must be at least {least}")


class CorpusError(TrainError):
    """A corpus that cannot be built or opened: a file, a column or an option."""


class FetchError(AttributaryError):
    """A package that cannot be had: `package` is its pinned name, `reason` what the package client said."""

    def __init__(self, package: str, reason: str) -> None:
        super().__init__(f"package {package} cannot be fetched: {reason}")
        self.package = package
        self.reason = reason


class SubjectError(TrainError):
    """A field of a recipe, a file of a checkpoint, or a corpus that does not fit a model."""


class TeacherError(TrainError):
    """A setting, a file or a value that an attribution method cannot work with."""


class EvaluationError(TrainError):
    """A file, a setting or a value that an evaluation cannot work with."""


class StudentError(TrainError):
    """A file, a setting or a value that a student cannot be made of."""


class CalibrationError(TrainError):
    """`field` names what is wrong, `reason` says how and what the limit is."""


class NoLabelError(CalibrationError):
    """No query of the split has a label: none was asked for, or the teacher failed on each."""


class CustomizationError(TrainError):
    """A setting, a file or a value that Attribution by Customization cannot work with."""


class AuditError(TrainError):
    """`field` names what is wrong, `reason` says how and what the limit is."""


class OwnError(TrainError):
    """`what` names the input or the step at fault, the reason says what would help."""
