"""How an input is read: what every reader has, what those share that read from the beginning, and a folder's.

A folder has pictures, with the texts and tables that tools leave beside them.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from attributary.bundle.files import sha256
from attributary.errors import InputError, InvalidArgumentError

from .inputs import InputFile, count_other, text_of, walk
from .naming import AGAIN, COPIES, PICTURES, TEXTS, WHOLE, again, bookkeeping, derived, ending, hidden
from .picture_tables import facts_of, is_table, prompt_in, read_tables, same_name
from .pictures import open_below
from .prompts import is_graph
from .rows import Batch, Fates, Problem, Row, Shard, invalid
from .settings import Settings
from .values import cast

MAX_TEXT_BYTES = 1 << 20
UNREADABLE = invalid("prompt", f"must be a readable UTF-8 file of at most {MAX_TEXT_BYTES} bytes")
_IDS_AT_ONCE = 4_096

Sample = TypeVar("Sample")


class Reader(ABC):
    """Reads one input: every member of it is a row, part of a row, or counted in `fates`. One thread at a time."""

    fixed: ClassVar[pa.Schema] = pa.schema([])  # the pass-through columns of a kind that always has the same
    passed: pa.Schema  # the pass-through columns

    def __init__(self, file: InputFile, settings: Settings) -> None:
        self._file, self._settings = file, settings
        self.fates = Fates()  # members that are no rows; complete once `ids` has run
        if self.fixed.names:
            self.passed = self._chosen()

    @abstractmethod
    def ids(self) -> Iterator[list[str]]:
        """Yield every row's generation id in order, many at a time."""

    @abstractmethod
    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield a shard's rows, `size` at a time; raises InputError naming the rows that cannot be read."""

    def place(self, row: int) -> tuple[int, int]:
        """(offset, skip) of a shard that begins at this row; known after `ids`. What is read by row has none."""
        return 0, 0

    def named(self) -> Iterator[str]:
        """Yield every path and URI that the rows name."""
        return iter(())

    def digest(self) -> tuple[int, str]:
        """(bytes, SHA-256) of everything that the rows are read from; raises OSError."""
        return self._file.path.stat().st_size, sha256(self._file.path)

    def close(self) -> None:  # noqa: B027 - most have nothing open
        """Close what is open."""

    def conformed(self, shard: Shard, columns: pa.Schema) -> Iterator[Batch]:
        """Yield `batches` with a run's pass-through columns, in their order and types."""
        partition = dict(self._file.partition)

        def column(found: pa.RecordBatch, field: pa.Field[Any]) -> Any:
            if field.name in found.schema.names:
                return cast(found.column(field.name), field.type)
            value = partition.get(field.name, partition.get(field.name.removeprefix("log_")))
            return cast(pa.array([value] * len(found)), field.type)

        for batch in self.batches(shard, self._settings.batch_size):
            arrays = [column(batch.passed, field) for field in columns]
            yield replace(batch, passed=pa.RecordBatch.from_arrays(arrays, schema=columns))

    def _chosen(self) -> pa.Schema:
        there, wanted = self.fixed, self._settings.pass_through
        for name in wanted or ():
            if name not in there.names and name not in dict(self._file.partition):
                raise InputError(
                    self._file.name, f"is missing; it has {', '.join(there.names)}", f"column {name}"
                )
        if wanted is None:
            return there
        return pa.schema([there.field(name) for name in wanted if name in there.names])


class StreamReader(Reader, Generic[Sample]):
    """Reads an input whose samples follow one another; remembers where each shard's first one is."""

    fixed = pa.schema([pa.field("prompt", pa.string()), pa.field("metadata", pa.string())])
    what: ClassVar[str]  # its samples, in the plural

    @abstractmethod
    def samples(self, offset: int, counted: bool) -> Iterator[tuple[int, int, Sample]]:
        """Yield (byte to read it from again, samples before it there, sample) from a byte on.

        `counted`: data is not needed; what is no sample is counted in `fates`.
        """

    @abstractmethod
    def id_of(self, sample: Sample, number: int) -> str:
        """Id of the sample with this number."""

    @abstractmethod
    def row_of(self, sample: Sample, number: int) -> tuple[Row, str | None]:
        """The row of a sample, and what is passed through as `metadata`."""

    def ids(self) -> Iterator[list[str]]:
        """Yield every sample's id; sees, too, that the input ends as its kind does."""
        self._places: list[tuple[int, int]] = []
        self.fates = Fates()
        found: list[str] = []
        for number, (offset, before, sample) in enumerate(self.samples(0, True)):
            if number % self._settings.rows_per_shard == 0:
                self._places.append((offset, before))
            found.append(self.id_of(sample, number))
            if len(found) == _IDS_AT_ONCE:
                yield found
                found = []
        yield found

    def place(self, row: int) -> tuple[int, int]:
        """(byte to read from, samples before the shard's first one there)."""
        return self._places[row // self._settings.rows_per_shard]

    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield the shard's samples, `size` at a time."""
        samples = islice(self.samples(shard.offset, False), shard.skip, None)
        stop = shard.start + shard.rows
        for start in range(shard.start, stop, size):
            numbers = range(start, min(start + size, stop))
            made = [
                self.row_of(sample, number) for number, (*_, sample) in zip(numbers, samples, strict=False)
            ]
            if len(made) < len(numbers):
                raise InputError(
                    self._file.name, f"has fewer {self.what} than before", f"row {start + len(made)}"
                )
            passed = pa.RecordBatch.from_pylist(
                [{"metadata": metadata} for _, metadata in made], schema=self.passed
            )
            yield Batch([row for row, _ in made], passed, fills_prompt="prompt" in self.passed.names)


def prompt_of_file(name: str, data: bytes) -> tuple[str, str | None, Problem | None]:
    """(prompt, model, problem) of the contents of a .txt, .caption or .json."""
    text = None if len(data) > MAX_TEXT_BYTES else decoded(data)
    if text is None:
        return "", None, UNREADABLE
    if ending(name) != ".json":
        return text.strip(), None, None
    facts = facts_of(text)
    if facts is None:
        return "", None, invalid("prompt", "must be a JSON object where it stands in a .json")
    model = facts.get("model_id")
    # A generator's graph, or SwarmUI's parameters, saved as they are.
    prompt = prompt_in(facts) or (text if is_graph(facts) or "sui_image_params" in facts else "")
    return prompt, model if isinstance(model, str) else None, None


def decoded(data: bytes) -> str | None:
    """Text of a file in UTF-8 or, with its mark before it, UTF-16; None for anything else."""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


class FolderInput(Reader):
    """One folder. The id of a row is the folder's name and the picture's path below it."""

    fixed = pa.schema([pa.field("prompt", pa.string())])

    def __init__(self, file: InputFile, settings: Settings) -> None:
        super().__init__(file, settings)
        pictures, texts, tables = [], [], []
        found = [
            (path, path.relative_to(file.path).parts)
            for path in walk(file.path, settings.access.roots, self.fates)
        ]
        copies = again({parts[:-1] for _, parts in found})
        for path, parts in found:
            plain = not (hidden(parts) or bookkeeping(parts))
            copied = any(parts[:depth] in copies for depth in range(1, len(parts)))
            if plain and copied:
                self.fates.skip(text_of(path.relative_to(file.path)), AGAIN)
            elif plain and ending(path.name) in PICTURES and not derived(parts):
                pictures.append(path)
            elif plain and is_table(path):
                tables.append(path)
            elif plain and ending(path.name) in TEXTS:
                texts.append(path)
            else:
                count_other(parts, self.fates)
        pictures.sort(key=lambda path: os.fsencode(path.relative_to(file.path)))
        pictures = self._without_links(pictures)
        whole = {path.with_suffix("") for path in pictures if ending(path.name) in WHOLE}
        self.paths = []
        for path in pictures:
            # AUTOMATIC1111 writes one beside what is larger than 4 MB: the generation would count twice.
            if ending(path.name) in COPIES and path.with_suffix("") in whole:
                self.fates.skip(
                    text_of(path.relative_to(file.path)), "a JPEG copy of the picture of its name"
                )
            else:
                self.paths.append(path)
        self._tables = sorted(tables)
        self._texts = {path: path for path in sorted(texts)}
        self._alike: dict[Path, Path] = {}
        for path in self._texts:
            self._alike.setdefault(path.with_name(same_name(path.name)), path)
        self._listed = read_tables(self._tables, file.path, self.paths, self.fates)

    def _without_links(self, pictures: list[Path]) -> list[Path]:
        """The pictures without links to others of them (`latest.png`): a generation counts once."""
        files = {os.path.realpath(path) for path in pictures if not path.is_symlink()}
        links = {path for path in pictures if path.is_symlink() and os.path.realpath(path) in files}
        for path in sorted(links):
            self.fates.skip(
                text_of(path.relative_to(self._file.path)), "a symbolic link to a picture that is read itself"
            )
        return [path for path in pictures if path not in links]

    def ids(self) -> Iterator[list[str]]:
        """Yield every picture's id; counts the texts that are no picture's."""
        used = {text for path in self.paths for text in self._beside(path)}
        for text in self._texts.values():
            if text not in used:
                self.fates.skip(
                    text_of(text.relative_to(self._file.path)), "a text without a picture beside it"
                )
        yield [self._id(path) for path in self.paths]

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

    def _id(self, path: Path) -> str:
        return f"{self._file.name}/{text_of(path.relative_to(self._file.path))}"

    def _beside(self, path: Path) -> list[Path]:
        """Texts beside a picture: x.txt, x.caption and x.json of x.png, those of x.png.txt, and x.swarm.json."""
        if not self._texts:
            return []
        names = [stem + last for stem in (path.stem, path.name) for last in TEXTS]
        # SwarmUI's, where a picture's format holds no texts.
        names.append(f"{path.stem}.swarm.json")
        found = [
            self._texts.get(path.with_name(name), self._alike.get(path.with_name(same_name(name))))
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
            source, prompt = self._listed.get(path, ("", ""))
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
            return "", None, UNREADABLE
        return prompt_of_file(path.name, data)
