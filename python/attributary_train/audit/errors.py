"""What can be wrong with an audit's inputs."""

from __future__ import annotations

from attributary_train.errors import TrainError


class AuditError(TrainError):
    """`field` names what is wrong, `reason` says how and what the limit is."""
