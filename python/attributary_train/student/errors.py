"""What can be wrong with a student, its labels or its configuration."""

from __future__ import annotations


class StudentError(Exception):
    """A file, a setting or a value that a student cannot be made of.

    `field` names what is wrong, `reason` says how and what the limit is.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
