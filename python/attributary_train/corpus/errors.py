"""What can go wrong while a corpus is fetched, built or opened."""

from __future__ import annotations

from attributary.errors import AttributaryError
from attributary_train.errors import TrainError


class CorpusError(TrainError):
    """A corpus that cannot be built or opened: a file, a column or an option."""


class FetchError(AttributaryError):
    """A package that cannot be had: `package` is its pinned name, `reason` what the package client said."""

    def __init__(self, package: str, reason: str) -> None:
        super().__init__(f"package {package} cannot be fetched: {reason}")
        self.package = package
        self.reason = reason
