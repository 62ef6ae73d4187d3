"""What can be wrong with a teacher, its factors or its labels."""

from __future__ import annotations


class TeacherError(Exception):
    """A setting, a file or a value that an attribution method cannot work with.

    `field` names what is wrong, `reason` says how and what the limit is.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
