"""What can go wrong while a corpus is fetched, built or opened."""

from __future__ import annotations

from attributary.errors import AttributaryError


class CorpusError(AttributaryError):
    """A corpus that cannot be built or opened: `where` names the file, column or option at fault."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where
        self.message = message


class FetchError(AttributaryError):
    """A package that cannot be had: `package` is its pinned name, `reason` what the package client said."""

    def __init__(self, package: str, reason: str) -> None:
        super().__init__(f"package {package} cannot be fetched: {reason}")
        self.package = package
        self.reason = reason
