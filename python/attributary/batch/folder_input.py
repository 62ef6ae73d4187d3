"""A folder of pictures, with the texts and tables that tools leave beside them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from attributary.bundle.files import sha256
from attributary.errors import InputError, InvalidArgumentError

from .inputs import InputFile, count_other, text_of, walk
from .naming import AGAIN, COPIES, PICTURES, TEXTS, WHOLE, again, bookkeeping, derived, ending, hidden
from .picture_tables import is_table, read_tables, same_name
from .pictures import open_below
from .reader import MAX_TEXT_BYTES, UNREADABLE, Reader, prompt_of_file
from .rows import Batch, Problem, Row, Shard, invalid
from .settings import Settings


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
