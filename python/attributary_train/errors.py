"""What goes wrong on purpose in this package: every part has its kind, and all are shown to a user in one way."""

from __future__ import annotations

from attributary.errors import AttributaryError


class TrainError(AttributaryError):
    """`field` names the setting, file or value that is wrong, `reason` says how and what the limit is."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
