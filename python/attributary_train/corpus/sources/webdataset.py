"""WebDataset shards: tar files in which members of one base name make one sample."""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from attributary.errors import InvalidArgumentError
from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.names import ConceptNames
from attributary_train.corpus.sources.base import Drawing, SourceReport
from attributary_train.corpus.sources.folder import described
from attributary_train.corpus.sources.listing import MAX_FILE_BYTES
from attributary_train.corpus.who import Creators
from attributary_train.errors import CorpusError

_IMAGES = frozenset({"jpg", "jpeg", "png", "webp"})
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(slots=True)
class _Sample:
    key: str
    image: bytes = b""
    extension: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WebDataset:
    """Samples with an image (.jpg, .jpeg, .png, .webp) and a caption (.txt, or "caption" in .json).

    The .json may also hold the other columns of `Folder`. Samples are read one after the other, as the format
    promises that their members stand together; no shard is held in memory.
    """

    pattern: str  # a path; may hold {00..09} ranges and * ? [] wild cards
    name: str = "webdataset"
    held_out_default: bool = False
    uses_names: bool = False

    def drawings(self, cache: PackageCache, names: ConceptNames, report: SourceReport) -> Iterator[Drawing]:
        """Yield the samples shard by shard; a shard that breaks off is recorded and the next one is read."""
        creators = Creators()
        for shard in self.shards():
            uri = shard.name
            seen: set[str] = set()
            try:
                with tarfile.open(shard) as tar:
                    for sample in _samples(tar, uri, report):
                        problem = _problem(sample, seen)
                        try:
                            creator, ids = creators.of(sample.facts) if problem is None else ("", ())
                        except InvalidArgumentError as error:
                            problem = str(error)
                        if problem:
                            report.problem(f"{uri}#{sample.key}", problem)
                            continue
                        seen.add(sample.key)
                        yield described(
                            key=f"{shard.stem}/{sample.key}",
                            uri=f"{uri}#{sample.key}.{sample.extension}",
                            style_set=self.name,
                            facts=sample.facts,
                            payload=sample.image,
                            creator=creator,
                            creator_ids=ids,
                        )
            except (tarfile.TarError, OSError, EOFError) as error:
                report.problem(uri, f"the shard cannot be read on: {error}")
        report.notes += creators.notes()

    def shards(self) -> list[Path]:
        """Return the shards of the pattern in order; raises `CorpusError` if there are none."""
        found = [Path(path) for pattern in _expand(self.pattern) for path in sorted(_matches(pattern))]
        if not found:
            raise CorpusError("webdataset", f"no shard matches {self.pattern!r}")
        stems = [path.stem for path in found]
        if len(set(stems)) != len(stems):
            raise CorpusError("webdataset", "two shards have the same file name, which names their samples")
        return found


def _matches(pattern: str) -> list[str]:
    return glob.glob(pattern)  # noqa: PTH207 - a pattern may be absolute, which Path.glob refuses


def _expand(pattern: str) -> list[str]:
    match = _RANGE.search(pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    middle = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [
        whole
        for part in middle
        for whole in _expand(pattern[: match.start()] + part + pattern[match.end() :])
    ]


def _samples(tar: tarfile.TarFile, shard: str, report: SourceReport) -> Iterator[_Sample]:
    sample: _Sample | None = None
    for member in tar:
        path = PurePosixPath(member.name)
        if not member.isfile() or path.name.startswith("."):
            continue
        # The format's rule: the base name ends at the first dot of the file name.
        base, _, extension = path.name.partition(".")
        key = (path.parent / base).as_posix()
        extension = extension.lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        if member.size > MAX_FILE_BYTES:
            report.problem(f"{shard}#{member.name}", f"larger than {MAX_FILE_BYTES} bytes")
            continue
        if extension in _IMAGES | {"txt", "json"}:
            stream = tar.extractfile(member)
            _fill(sample, extension, b"" if stream is None else stream.read(), shard, report)
    if sample is not None:
        yield sample


def _fill(sample: _Sample, extension: str, data: bytes, shard: str, report: SourceReport) -> None:
    if extension in _IMAGES:
        sample.image, sample.extension = data, extension
    elif extension == "txt":
        sample.facts["caption"] = data.decode("utf-8", errors="replace")
    else:
        try:
            facts = json.loads(data)
        except ValueError as error:
            report.problem(f"{shard}#{sample.key}.json", f"not readable: {error}")
            return
        if isinstance(facts, dict):
            # A .txt beside it is the caption proper.
            sample.facts = {**facts, **sample.facts}


def _problem(sample: _Sample, seen: set[str]) -> str | None:
    if not sample.extension:
        return "no image"
    if not str(sample.facts.get("caption") or "").strip():
        return "no caption"
    if sample.key in seen:
        return "appears twice"
    return None
