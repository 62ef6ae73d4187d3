"""Where the bundle is that a command changes or reads: in a directory, or at the server that has it open."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from attributary.client.admin import AdminClient, Deletion
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import InvalidArgumentError

from .options import AdminToken, Argument, ClientTls, From, Option, admin


@dataclass(frozen=True, slots=True)
class Where:
    """A directory, or a server with the alias or id of one of its bundles."""

    directory: Path | None
    connect: Callable[[], AdminClient] | None  # None: no server was named
    alias: str  # empty: the server's default

    @property
    def here(self) -> Path:
        """The directory; raises InvalidArgumentError without one."""
        if self.directory is None:
            raise InvalidArgumentError("bundle", "a bundle's directory or --address must be given")
        return self.directory

    def store(self) -> Store:
        """Open the directory for changes."""
        return Store(self.here)

    def server(self) -> AdminClient:
        """The client of the server."""
        if self.directory is not None:
            raise InvalidArgumentError(
                "bundle", "a directory and --address exclude each other: the server has its own"
            )
        assert self.connect is not None
        return self.connect()

    @contextmanager
    def deleting(self, who: str | None, dry_run: bool) -> Iterator[Callable[[Selection, str], Deletion]]:
        """Yield what deletes a selection for a reason, here or there."""
        if self.connect is not None:
            with self.server() as client:
                yield lambda chosen, why: client.delete_items(
                    **asdict(chosen), why=why, dry_run=dry_run, bundle=self.alias
                )
            return
        with self.store() as store:

            def delete(chosen: Selection, why: str) -> Deletion:
                done = store.delete(chosen, who=user(who), why=why, dry_run=dry_run)
                return Deletion(
                    len(done.ids),
                    done.ids,
                    done.already,
                    done.unknown,
                    done.revision,
                    done.similar,
                    done.held,
                    done.duplicates,
                )

            yield delete


def _where(
    *,
    bundle: Annotated[Path | None, Argument()] = None,
    address: Annotated[str, "host:port of the server that serves the bundle"] = "",
    token: AdminToken = "",
    tls: ClientTls,
    alias: Annotated[str, "alias or id of the bundle at --address; default: the server's"] = "",
) -> Where:
    return Where(bundle, admin(address=address, token=token, tls=tls) if address else None, alias)


AtPlace: TypeAlias = Annotated[Where, From(_where)]
Lines: TypeAlias = Annotated[bool, Option("print JSON, one object a line", "--json")]
BringBack: TypeAlias = Annotated[
    bool, "pictures of deleted items, and creators deleted by name, may come back; else they are refused"
]


def user(who: str | None) -> str:
    """Who changes a bundle, for its audit."""
    if who:
        return who
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise InvalidArgumentError("who", "must be given: this user has no name") from None
