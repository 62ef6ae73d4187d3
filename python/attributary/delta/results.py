"""What became of changes that were asked for."""

from __future__ import annotations

from dataclasses import dataclass

from attributary.errors import AttributaryError


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of items that were added together: None for each accepted one, else why not."""

    outcomes: list[AttributaryError | None]
    revision: int  # the bundle's
    revisions: list[
        int
    ]  # of the change that each item belongs to: an earlier one for an addition that was repeated
    held: list[str]  # why an accepted item waits for the operator; empty for those that are searched


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Ids that are deleted now, and those asked for that were deleted before or never there."""

    ids: tuple[int, ...]
    already: tuple[int, ...]
    unknown: tuple[int, ...]
    revision: int
    held: tuple[int, ...] = ()  # that waited for the operator, and are gone
    similar: tuple[
        str, ...
    ] = ()  # other names that still have items, and may be the same creator's or licence's
    duplicates: tuple[int, ...] = ()  # that are still there, and near duplicates of the deleted


@dataclass(frozen=True, slots=True)
class CompactResult:
    """The bundle that is in place now, and what the compaction put into it and left out."""

    bundle_id: str
    parent: str  # empty if there was nothing to do
    added: int
    deleted: int
