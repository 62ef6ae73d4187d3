"""A plain folder of pictures; a .txt of the same name beside a picture is its prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from attributary.errors import InputError

from .inputs import InputFile, picture_paths, text_of
from .reading import Shard, invalid
from .rows import Batch, Problem, Row
from .settings import Settings

_MAX_TEXT_BYTES = 1 << 20
_PASSED = pa.schema([pa.field("prompt", pa.string())])


class FolderInput:
    """One folder. The id of a row is the folder's name and the picture's path below it."""

    def __init__(self, file: InputFile, settings: Settings) -> None:
        self._file = file
        self.paths = picture_paths(file.path)
        wanted = settings.pass_through
        names = _PASSED.names if wanted is None else list(wanted)
        for name in names:
            if name not in _PASSED.names:
                raise InputError(file.name, "is missing; a folder has prompt", f"column {name}")
        self.passed = pa.schema([_PASSED.field(name) for name in names])

    def ids(self) -> Iterator[list[str]]:
        """Yield every picture's id."""
        yield [self._id(path) for path in self.paths]

    def offset(self, row: int) -> int:
        """A folder is read by row: always 0."""
        return 0

    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield the shard's pictures, `size` at a time; their bytes are read where they are decoded."""
        stop = shard.start + shard.rows
        if stop > len(self.paths):
            raise InputError(self._file.name, "has fewer pictures than before", f"row {len(self.paths)}")
        for start in range(shard.start, stop, size):
            rows = [self._row(path) for path in self.paths[start : min(start + size, stop)]]
            passed = [{"prompt": row.prompt or None} for row in rows]
            yield Batch(rows, pa.RecordBatch.from_pylist(passed, schema=self.passed))

    def close(self) -> None:
        """Nothing is open."""

    def _id(self, path: Path) -> str:
        return f"{self._file.name}/{text_of(path.relative_to(self._file.path))}"

    def _row(self, path: Path) -> Row:
        prompt, problem = _prompt(path.with_suffix(".txt"))
        return Row(self._id(path), prompt=prompt, uri=str(path), base=str(self._file.path), problem=problem)


def _prompt(path: Path) -> tuple[str, Problem | None]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_TEXT_BYTES + 1)
        if len(data) <= _MAX_TEXT_BYTES:
            return data.decode().strip(), None
    except FileNotFoundError:
        return "", None
    except (OSError, UnicodeDecodeError):
        pass
    return "", invalid("prompt", f"must be a readable UTF-8 file of at most {_MAX_TEXT_BYTES} bytes")
