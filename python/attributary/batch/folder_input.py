"""A folder of pictures, with the texts and tables that tools leave beside them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from attributary.bundle.files import sha256
from attributary.errors import InputError, InvalidArgumentError

from .access import open_below
from .inputs import InputFile, count_other, text_of, walk
from .naming import PICTURES, TEXTS, bookkeeping, derived, ending, hidden
from .picture_tables import is_table, prompt_in, read_tables
from .rows import Batch, Fates, Problem, Row, Shard, invalid
from .settings import Settings

MAX_TEXT_BYTES = 1 << 20
_PASSED = pa.schema([pa.field("prompt", pa.string())])


class FolderInput:
    """One folder. The id of a row is the folder's name and the picture's path below it."""

    def __init__(self, file: InputFile, settings: Settings) -> None:
        self._file, self._settings = file, settings
        self.fates = Fates()
        self.passed = chosen(_PASSED, settings.pass_through, file, "a folder")
        pictures, texts, tables = [], [], []
        for path in walk(file.path, settings.access.roots, self.fates):
            parts = path.relative_to(file.path).parts
            plain = not (hidden(parts) or bookkeeping(parts))
            if plain and ending(path.name) in PICTURES and not derived(parts):
                pictures.append(path)
            elif plain and is_table(path):
                tables.append(path)
            elif plain and ending(path.name) in TEXTS:
                texts.append(path)
            else:
                count_other(parts, self.fates)
        self.paths = sorted(pictures, key=lambda path: os.fsencode(path.relative_to(file.path)))
        self._tables = sorted(tables)
        self._texts = {path: path for path in sorted(texts)}
        self._any_case: dict[Path, Path] = {}
        for path in self._texts:
            self._any_case.setdefault(path.with_name(path.name.lower()), path)
        self._told = read_tables(self._tables, file.path, self.paths, self.fates)

    def ids(self) -> Iterator[list[str]]:
        """Yield every picture's id; counts the texts that are no picture's."""
        used = {text for path in self.paths for text in self._beside(path)}
        for text in self._texts.values():
            if text not in used:
                self.fates.skip(
                    text_of(text.relative_to(self._file.path)), "a text without a picture beside it"
                )
        yield [self._id(path) for path in self.paths]

    def place(self, row: int) -> tuple[int, int]:
        """A folder is read by row: always 0."""
        return 0, 0

    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield the shard's pictures, `size` at a time; their bytes are read where they are decoded."""
        stop = shard.start + shard.rows
        if stop > len(self.paths):
            raise InputError(self._file.name, "has fewer pictures than before", f"row {len(self.paths)}")
        for start in range(shard.start, stop, size):
            rows = [self._row(path) for path in self.paths[start : min(start + size, stop)]]
            passed = pa.RecordBatch.from_pylist([{}] * len(rows), schema=self.passed)
            yield Batch(rows, passed, fills_prompt=bool(self.passed.names))

    def digest(self) -> tuple[int, str]:
        """(bytes, SHA-256) over the names and contents of pictures, texts and tables."""
        size, digest = 0, hashlib.sha256()
        for path in [*self.paths, *self._texts.values(), *self._tables]:
            name = text_of(path.relative_to(self._file.path))
            try:
                open_below(path, str(self._file.root), self._settings.access.roots).close()
            except (OSError, InvalidArgumentError):
                # It will be an error row; the link is all there is of it.
                digest.update(f"{name}\0\n".encode())
                continue
            size += path.stat().st_size
            digest.update(f"{name}\0{sha256(path)}\n".encode())
        return size, digest.hexdigest()

    def close(self) -> None:
        """Nothing is open."""

    def _id(self, path: Path) -> str:
        return f"{self._file.name}/{text_of(path.relative_to(self._file.path))}"

    def _beside(self, path: Path) -> list[Path]:
        """Texts beside a picture: x.txt, x.caption and x.json of x.png, and those of x.png.txt."""
        names = [stem + last for stem in (path.stem, path.name) for last in TEXTS]
        found = [
            self._texts.get(path.with_name(name), self._any_case.get(path.with_name(name.lower())))
            for name in names
        ]
        return [text for text in found if text is not None]

    def _row(self, path: Path) -> Row:
        prompt, source = "", ""
        model: str | None = None
        problem: Problem | None = None
        if "sidecar" in self._settings.prompt_from:
            for text in self._beside(path):
                said, model_here, wrong = self._read(text)
                model, problem = model or model_here, problem or wrong
                if said and not prompt:
                    prompt, source = said, ending(text.name)[1:]
        if not prompt and problem is None and "table" in self._settings.prompt_from:
            source, prompt = self._told.get(path, ("", ""))
        return Row(
            self._id(path),
            model,
            prompt,
            uri=str(path.relative_to(self._file.path)),
            base=str(self._file.path),
            problem=problem,
            prompt_source=source if prompt else "",
            root=str(self._file.root),
        )

    def _read(self, path: Path) -> tuple[str, str | None, Problem | None]:
        """(prompt, model, problem) of a text."""
        try:
            with open_below(path, str(self._file.root), self._settings.access.roots, "prompt") as file:
                data = file.read(MAX_TEXT_BYTES + 1)
        except InvalidArgumentError as error:
            return "", None, invalid("prompt", error.message)
        except OSError:
            return "", None, _UNREADABLE
        return prompt_of_file(path.name, data)


_UNREADABLE = invalid("prompt", f"must be a readable UTF-8 file of at most {MAX_TEXT_BYTES} bytes")


def prompt_of_file(name: str, data: bytes) -> tuple[str, str | None, Problem | None]:
    """(prompt, model, problem) of the contents of a .txt, .caption or .json."""
    text = None if len(data) > MAX_TEXT_BYTES else decoded(data)
    if text is None:
        return "", None, _UNREADABLE
    if ending(name) != ".json":
        return text.strip(), None, None
    facts = facts_of(text)
    if facts is None:
        return "", None, invalid("prompt", "must be a JSON object where it stands in a .json")
    model = facts.get("model_id")
    return prompt_in(facts), model if isinstance(model, str) else None, None


def decoded(data: bytes) -> str | None:
    """Text of a file in UTF-8 or, with its mark before it, UTF-16; None for anything else."""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def facts_of(text: str) -> dict[str, Any] | None:
    """The object that a JSON text holds; None for anything else."""
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict) else None


def chosen(there: pa.Schema, wanted: tuple[str, ...] | None, file: InputFile, kind: str) -> pa.Schema:
    """The pass-through columns that are wanted of an input whose columns are fixed; raises InputError."""
    partition = dict(file.partition)
    for name in wanted or ():
        if name not in there.names and name not in partition:
            raise InputError(file.name, f"is missing; {kind} has {', '.join(there.names)}", f"column {name}")
    return (
        there if wanted is None else pa.schema([there.field(name) for name in wanted if name in there.names])
    )
