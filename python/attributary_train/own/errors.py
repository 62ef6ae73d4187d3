"""What can go wrong on the road."""

from __future__ import annotations


class OwnError(Exception):
    """`what` names the input or the step at fault, the reason says what would help."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason
