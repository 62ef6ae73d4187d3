"""What can be wrong with an audit's inputs."""

from __future__ import annotations


class AuditError(Exception):
    """`field` names what is wrong, `reason` says how and what the limit is."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
