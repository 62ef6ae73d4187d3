"""WebDataset shards: uncompressed tars in which members of one base name, standing together, make one row.

The picture is .jpg, .jpeg, .png, .webp, .gif or .bmp; the prompt is .txt, or `prompt` or `caption` in .json; the model
is `model_id` in .json. The id is the tar's name and the key. The .json passes through as column `metadata`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from attributary.errors import InputError

from .inputs import PICTURES, InputFile
from .reading import Shard, invalid
from .rows import Batch, Row
from .settings import Settings

_BLOCK = 512
_MAX_TEXT_BYTES = 1 << 20
_IDS_AT_ONCE = 4_096
_PASSED = pa.schema([pa.field("prompt", pa.string()), pa.field("metadata", pa.string())])
_KINDS = {suffix[1:] for suffix in PICTURES} | {"txt", "json"}


@dataclass(slots=True)
class _Sample:
    key: str
    offset: int
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)


class TarInput:
    """One tar of samples. Raises InputError naming the byte from which it cannot be read."""

    def __init__(self, file: InputFile, settings: Settings) -> None:
        self._file = file
        self._max_bytes = settings.limits.max_image_bytes
        self._every = settings.rows_per_shard
        self._offsets: list[int] = []
        wanted = settings.pass_through
        names = _PASSED.names if wanted is None else list(wanted)
        for name in names:
            if name not in _PASSED.names:
                raise InputError(
                    file.name, f"is missing; a tar has {', '.join(_PASSED.names)}", f"column {name}"
                )
        self.passed = pa.schema([_PASSED.field(name) for name in names])
        try:
            self._stream = file.path.open("rb")
        except OSError as error:
            raise InputError(file.name, f"cannot be opened: {error.strerror}") from error
        self._size = file.path.stat().st_size

    def ids(self) -> Iterator[list[str]]:
        """Yield every sample's id; remembers where shards begin, and that the tar ends as a tar does."""
        self._offsets = []
        found: list[str] = []
        for count, sample in enumerate(self._samples(0)):
            if count % self._every == 0:
                self._offsets.append(sample.offset)
            found.append(self._id(sample.key))
            if len(found) == _IDS_AT_ONCE:
                yield found
                found = []
        if found:
            yield found

    def offset(self, row: int) -> int:
        """Byte at which a shard's first sample begins."""
        return self._offsets[row // self._every]

    def batches(self, shard: Shard, size: int) -> Iterator[Batch]:
        """Yield the shard's samples, `size` at a time."""
        samples = self._samples(shard.offset)
        done = 0
        while done < shard.rows:
            rows, facts = [], []
            for _ in range(min(size, shard.rows - done)):
                sample = next(samples, None)
                if sample is None:
                    raise InputError(
                        self._file.name, "has fewer samples than before", f"row {shard.start + done}"
                    )
                row, metadata = self._row(sample)
                rows.append(row)
                facts.append({"prompt": row.prompt or None, "metadata": metadata})
            yield Batch(rows, pa.RecordBatch.from_pylist(facts, schema=self.passed))
            done += len(rows)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _id(self, key: str) -> str:
        return f"{self._file.name.removesuffix('.tar')}/{key}"

    def _samples(self, offset: int) -> Iterator[_Sample]:
        sample: _Sample | None = None
        for member in self._members(offset):
            path = PurePosixPath(member.name)
            if not member.isfile() or path.name.startswith("."):
                continue
            # The format's rule: the base name ends at the first dot of the file name.
            base, _, extension = path.name.partition(".")
            key = (path.parent / base).as_posix()
            if extension.lower() not in _KINDS:
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield sample
                sample = _Sample(key, member.offset)
            sample.members[extension.lower()] = member
        if sample is not None:
            yield sample

    def _members(self, offset: int) -> Iterator[tarfile.TarInfo]:
        try:
            self._stream.seek(offset)
            tar: Any = tarfile.TarFile(
                fileobj=self._stream, mode="r", encoding="utf-8", errors="backslashreplace"
            )
            while (member := tar.next()) is not None:
                # It remembers every member otherwise.
                tar.members.clear()
                yield member
            end = tar.offset
            self._stream.seek(end)
            # tarfile takes a damaged header for the end of the archive; rows would be lost in silence.
            if self._stream.read(_BLOCK) != bytes(_BLOCK):
                raise InputError(self._file.name, "is cut off or damaged: no end of archive", f"byte {end}")
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise InputError(self._file.name, f"cannot be read as a tar: {error}") from error

    def _row(self, sample: _Sample) -> tuple[Row, str | None]:
        generation_id = self._id(sample.key)
        metadata, facts = None, {}
        problem = None
        if "json" in sample.members:
            metadata = self._text(sample.members["json"])
            try:
                loaded = json.loads(metadata) if metadata is not None else None
            except (ValueError, RecursionError):
                loaded = None
            if isinstance(loaded, dict):
                facts = loaded
            else:
                problem = invalid("metadata", f"must be a JSON object of at most {_MAX_TEXT_BYTES} bytes")
        prompt = self._text(sample.members["txt"]) if "txt" in sample.members else None
        if "txt" in sample.members and prompt is None:
            problem = problem or invalid("prompt", f"must be UTF-8 text of at most {_MAX_TEXT_BYTES} bytes")
        if prompt is None:
            given = facts.get("prompt") or facts.get("caption") or ""
            prompt = given if isinstance(given, str) else ""
        model = facts.get("model_id")
        picture = next(
            (member for kind, member in sorted(sample.members.items()) if f".{kind}" in PICTURES), None
        )
        image = None
        if picture is None:
            problem = problem or invalid("image", "is missing from the sample")
        elif picture.size > self._max_bytes:
            problem = problem or invalid(
                "image", f"is {picture.size} bytes long; the limit is {self._max_bytes} bytes"
            )
        else:
            image = self._read(picture)
        row = Row(
            generation_id, model if isinstance(model, str) else None, prompt.strip(), image, problem=problem
        )
        return row, metadata

    def _text(self, member: tarfile.TarInfo) -> str | None:
        if member.size > _MAX_TEXT_BYTES:
            return None
        try:
            return self._read(member).decode()
        except UnicodeDecodeError:
            return None

    def _read(self, member: tarfile.TarInfo) -> bytes:
        at = self._stream.tell()
        try:
            self._stream.seek(member.offset_data)
            data = self._stream.read(member.size)
        except OSError as error:
            raise InputError(self._file.name, f"cannot be read: {error.strerror}", member.name) from error
        finally:
            self._stream.seek(at)
        if len(data) != member.size:
            raise InputError(self._file.name, "is cut off", member.name)
        return data
