"""What can be wrong with a subject model or its data."""

from __future__ import annotations


class SubjectError(Exception):
    """A field of a recipe, a file of a checkpoint, or a corpus that does not fit a model.

    `field` names what is wrong, `reason` says how and what the limit is.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
