"""The rows of a table beside a folder: which picture each is of, whose it is, or why it cannot be taken."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from attributary.batch.inputs import text_of as text_of_path
from attributary.batch.naming import PICTURES, ending, hidden
from attributary.errors import InvalidArgumentError
from attributary.plain import counted
from attributary_train.corpus.sources.captions import COLUMNS, caption_rows, text_of
from attributary_train.corpus.who import Creators

MAX_FILE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ListedRow:
    """One row: `file` below the folder, the row's facts, its creator and their identifiers; or `problem`: why not."""

    file: str
    facts: Mapping[str, Any]
    creator: str = ""
    creator_ids: tuple[str, ...] = ()
    problem: str | None = None


class Listing:
    """The pictures of the folder `root`, resolved, that the table `captions` lists."""

    def __init__(self, root: Path, captions: Path) -> None:
        self._root, self._captions = root, captions
        self._creators = Creators()
        self._seen: set[str] = set()
        self._named: set[str] = set()  # files that any row names, taken or not
        self._columns: dict[str, None] = {}

    def rows(self) -> Iterator[ListedRow]:
        """Yield every row in its order; raises `CorpusError` for a table that cannot be read."""
        for number, row in enumerate(caption_rows(self._captions), start=1):
            self._columns |= dict.fromkeys(row)
            file, problem = self._file(row)
            creator, ids = "", cast(tuple[str, ...], ())
            if problem is None:
                try:
                    creator, ids = self._creators.of(row)
                    self._seen.add(file)
                except InvalidArgumentError as error:
                    problem = str(error)
            yield ListedRow(file or f"row {number}", row, creator, ids, problem)

    def notes(self) -> list[str]:
        """What a user may want to know of the table once all rows were read."""
        unread = [str(name) for name in self._columns if name not in COLUMNS and name]
        unlisted = self._unlisted()
        found = [f"columns that are not read: {', '.join(unread)}"] if unread else []
        if unlisted:
            pictures = counted(len(unlisted), "picture")
            found.append(
                f"{pictures} of the folder in no row of the table, such as {text_of_path(unlisted[0])}"
            )
        return found + self._creators.notes()

    def _unlisted(self) -> list[Path]:
        found = []
        for directory, names, files in os.walk(self._root):
            names.sort()
            for name in sorted(files):
                file = Path(directory, name).relative_to(self._root)
                if ending(name) in PICTURES and not hidden(file.parts) and str(file) not in self._named:
                    found.append(file)
        return found

    def _file(self, row: Mapping[str, Any]) -> tuple[str, str | None]:
        """The file that a row names, below the folder, and why it cannot be taken."""
        # As it stands but for the space around it: two blanks in a name are two.
        named = row.get("file")
        file, caption = "" if named is None else str(named).strip(), text_of(row.get("caption"))
        if not file:
            return file, "no file named"
        try:
            file = self._spelt(file)
            self._named.add(file)
            return file, self._problem(file, caption)
        except (OSError, ValueError) as error:
            return file, f"no name of a file: {error}"

    def _spelt(self, file: str) -> str:
        """The one way to name a file from the folder on: "./a.png" and "b/../a.png" are "a.png"."""
        path = Path(os.path.normpath(self._root / file))
        if not path.is_relative_to(self._root):
            path = path.parent.resolve() / path.name
        file = str(path.relative_to(self._root)) if path.is_relative_to(self._root) else file
        # What one system writes as a letter and an accent another writes as one letter.
        spelt = (file, *(unicodedata.normalize(form, file) for form in ("NFC", "NFD")))
        return next((name for name in spelt if (self._root / name).is_file()), file)

    def _problem(self, file: str, caption: str) -> str | None:
        path = (self._root / file).resolve()
        if not caption:
            return "no caption"
        if file in self._seen:
            return "listed twice"
        if not path.is_relative_to(self._root):
            return "lies outside the folder"
        if not path.is_file():
            return "no such file"
        if path.stat().st_size > MAX_FILE_BYTES:
            return f"larger than {MAX_FILE_BYTES} bytes"
        return None
