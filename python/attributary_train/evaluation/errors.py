"""What can be wrong with scores, retrained models or a protocol's settings."""

from __future__ import annotations


class EvaluationError(Exception):
    """A file, a setting or a value that an evaluation cannot work with.

    `field` names what is wrong, `reason` says how and what the limit is.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
