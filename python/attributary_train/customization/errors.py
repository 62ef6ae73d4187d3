"""What can be wrong with exemplars, their data set, feature spaces or maps."""

from __future__ import annotations


class CustomizationError(Exception):
    """A setting, a file or a value that Attribution by Customization cannot work with.

    `field` names what is wrong, `reason` says how and what the limit is.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
