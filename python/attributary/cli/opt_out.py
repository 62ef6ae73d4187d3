"""`attributary bundle opt-out`: opt-out signals that a corpus read become deletions, with their source in the audit."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import click
import pyarrow as pa
import pyarrow.parquet as pq

from attributary.bundle.files import sha256
from attributary.client.admin import Deletion
from attributary.delta.selection import MAX_IDS, Selection
from attributary.errors import InputError, InvalidArgumentError
from attributary.plain import json_line, plain

from .options import Option, Who, declared
from .where import AtPlace, Lines

_FILE: Final = "opt-out.parquet"
_CORPUS: Final = "corpus.json"
_Kind = Literal["iptc-plus", "cawg", "tdmrep", "robots", "ai.txt", "content-signal", "noai"]
_KINDS: Final = get_args(_Kind)
_COLUMNS: Final = ("item_id", "kind", "means", "source", "last_seen")
_READ: Final = b"attributary.read_at"
_SOURCES: Final = 3


@dataclass(frozen=True, slots=True)
class _Signals:
    """What is to be deleted: ids by kind of signal, each item once, and where that was said."""

    ids: dict[str, list[int]]
    sources: dict[str, list[str]]
    read_at: str
    sha256: str

    def why(self, kind: str, more: str) -> str:
        """The reason of a deletion, as the audit has it."""
        sources = self.sources[kind]
        named = ", ".join(sources[:_SOURCES]) + (
            f" and {len(sources) - _SOURCES} more" if len(sources) > _SOURCES else ""
        )
        text = f"opt-out signal {kind} in {plain(named)}, read {self.read_at}, {_FILE} {self.sha256[:16]}"
        return f"{text}; {more}" if more else text


@click.command("opt-out")
@declared
def opt_out_command(
    *,
    where: AtPlace,
    as_json: Lines = False,
    signals: Annotated[Path, f"corpus directory, or its {_FILE}"],
    kinds: Annotated[tuple[_Kind, ...], Option("only signals of this kind; repeatable", "--signal")] = (),
    conditional: Annotated[bool, "also items that may be used under conditions"] = False,
    dry_run: Annotated[bool, "say what would be deleted, delete nothing"] = False,
    why: Annotated[str, "added to the reason; what was read where is in it anyway"] = "",
    who: Who = None,
) -> None:
    """Delete from BUNDLE what opt-out signals reserve, as the corpus read them; they are gone when this returns.

    Each kind of signal is a change of its own: `bundle log` says which, where it was read, and when. Repeating it is no
    error, and what is not in the bundle is left alone.
    """
    found = _read(signals, kinds, ("reserved", "conditional") if conditional else ("reserved",))
    with where.deleting(who, dry_run) as delete:
        _delete(found, delete, why, dry_run, as_json)


def _delete(
    found: _Signals, delete: Callable[[Selection, str], Deletion], why: str, dry_run: bool, as_json: bool
) -> None:
    if not found.ids:
        click.echo(json_line({"signals": 0}) if as_json else "no signal reserves an item")
    for kind, ids in found.ids.items():
        count = already = unknown = revision = 0
        stay = set[int]()
        for start in range(0, len(ids), MAX_IDS):
            try:
                deleted = delete(Selection(tuple(ids[start : start + MAX_IDS])), found.why(kind, why))
            except InvalidArgumentError as error:
                if error.field != "selection.ids":
                    raise
                # Of another corpus, or left out of the bundle: none of them is there.
                unknown += len(ids[start : start + MAX_IDS])
                continue
            count, already = count + deleted.count, already + len(deleted.already)
            unknown, revision = unknown + len(deleted.unknown), deleted.revision
            stay = stay.difference(ids).union(deleted.duplicates)
        if as_json:
            facts = {
                "deleted": count,
                "already_deleted": already,
                "not_in_the_bundle": unknown,
                "near_duplicates": sorted(stay),
                "revision": revision,
            }
            click.echo(json_line({"signal": kind, **facts, "dry_run": dry_run}))
        else:
            click.echo(
                f"{kind}: {'would delete' if dry_run else 'deleted'} {count} items; deleted before {already}, "
                f"not in the bundle {unknown}"
                + (
                    f"; still there, near duplicates of these: {', '.join(map(str, sorted(stay)[:20]))}"
                    if stay
                    else ""
                )
            )


def _read(place: Path, kinds: tuple[str, ...], means: tuple[str, ...]) -> _Signals:
    path = place / _FILE if place.is_dir() else place
    if not path.is_file():
        raise InvalidArgumentError(
            "signals",
            f"{path} does not exist: the corpus has no opt-out signals, or was built before they were read",
        )
    try:
        table = pq.read_table(path, columns=list(_COLUMNS), partitioning=None)
        read_at = (table.schema.metadata or {})[_READ].decode()
    except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"is no file of opt-out signals: {error}") from None
    last: dict[str, str] = {}
    for kind in _not_read(path.with_name(_CORPUS)):
        # Nobody looked: what was there when somebody did still holds.
        seen = [row["last_seen"] for row in table.to_pylist() if row["kind"] == kind]
        last[kind] = max(seen, default=read_at)
    ids: dict[str, dict[int, None]] = defaultdict(dict)
    sources: dict[str, dict[str, None]] = defaultdict(dict)
    taken: set[int] = set()
    rows = sorted(
        table.to_pylist(), key=lambda row: _KINDS.index(row["kind"]) if row["kind"] in _KINDS else 99
    )
    for row in rows:
        # A signal that was taken back holds no longer; that it was there stays in the file.
        # A kind that only a newer corpus build knows holds as well.
        wanted = (not kinds or row["kind"] in kinds) and row["means"] in means
        if wanted and row["last_seen"] == last.get(row["kind"], read_at):
            if row["item_id"] not in taken or row["item_id"] in ids[row["kind"]]:
                ids[row["kind"]][row["item_id"]] = None
                sources[row["kind"]][row["source"]] = None
            taken.add(row["item_id"])
    return _Signals(
        {kind: sorted(found) for kind, found in ids.items() if found},
        {kind: sorted(found) for kind, found in sources.items()},
        read_at,
        sha256(path),
    )


def _not_read(corpus: Path) -> list[str]:
    """Kinds that the last build of a corpus could not read, for want of a package."""
    try:
        told = json.loads(corpus.read_bytes())["opt_out"]["not_read"]
        return [str(line).partition(":")[0] for line in told]
    except (OSError, ValueError, KeyError, TypeError):
        return []
