"""A run directory: what is pinned, what is committed, what is missing, and who holds it.

A file is whole under its name or not there, and always has the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from attributary.bundle.files import sync, write_whole
from attributary.errors import OutputError, RunError

from .plan import Plan
from .rows import SCHEMA_VERSION, BundleState, Shard, output_schema

TEMPORARY = ".tmp"
RUN, SUMMARY, SHARDS, LOCK = "run.json", "summary.json", "shards", ".lock"
CREATORS, CREATORS_CSV = "creators.parquet", "creators.csv"
# Whose versions may change a byte of the output.
_SOFTWARE = (
    "attributary", "faiss-cpu", "numpy", "onnxruntime", "pillow", "pyarrow", "simplejpeg", "tokenizers",
)  # fmt: skip


def parquet_bytes(table: pa.Table, facts: Mapping[str, str]) -> bytes:
    """Return the one Parquet file that the contract knows for a table; `facts` go into the footer's metadata."""
    # Chunks as the table came by them would show in its pages.
    whole = table.combine_chunks().replace_schema_metadata(dict(facts))
    sink = pa.BufferOutputStream()
    pq.write_table(
        whole,
        sink,
        row_group_size=max(1, len(whole)),
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=True,
        write_statistics=True,
        write_page_checksum=True,
        store_schema=True,
    )
    return bytes(sink.getvalue())


def commit(path: Path, data: bytes, name: str) -> None:
    """Put a file under its name, flushed to disk; `name` is what errors call it.

    Raises OutputError; what was written of it is then removed. After a kill it is left under a name that
    `remove_unfinished` knows.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        write_whole(path, data, scratch)
    except OSError as error:
        raise _refused(error, name) from error


def make_directory(path: Path, name: str) -> None:
    """Make a directory that outlives a power cut; no error if it is there. Raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        sync(path.parent)
    except OSError as error:
        raise _refused(error, name) from error


def remove_unfinished(directory: Path) -> None:
    """Remove what killed writers left behind. Raises OutputError."""
    for path in directory.glob(f".*{TEMPORARY}"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _refused(error, path.name) from error


def _refused(error: OSError, name: str) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(
            name, f"cannot be written: {error.strerror}; make room and run the same command again"
        )
    return OutputError(name, f"cannot be written: {error.strerror}")


def run_manifest(plan: Plan, bundle: BundleState) -> dict[str, Any]:
    """Return the contents of run.json: everything that the bytes of a run depend on. JSON-ready, in a fixed order."""
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle_id": bundle.id,
        "bundle_revision": bundle.revision,
        "settings": plan.settings.pinned(plan.files[0].file.root),
        "columns": [{"name": field.name, "type": str(field.type)} for field in plan.passed],
        "software": {name: _version(name) for name in _SOFTWARE},
        "inputs": [
            {
                "name": entry.file.name,
                "kind": entry.file.kind,
                "rows": entry.rows,
                "bytes": entry.bytes,
                "sha256": entry.sha256,
                "partition": dict(entry.file.partition),
            }
            for entry in plan.files
        ],
    }


def json_bytes(value: Any) -> bytes:
    """Return the one JSON file that the contract knows for a value."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run; raises OutputError."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise OutputError(path.name, f"cannot be read: {error}") from error


def shard_name(number: int) -> str:
    """File name of an output shard."""
    return f"shard-{number:06d}.parquet"


def shard_tables(directory: Path, columns: tuple[str, ...] | None = None) -> Iterator[pa.Table]:
    """Yield the tables of a run's shards in order; raises OutputError naming one that is damaged."""
    for path in sorted((directory / SHARDS).glob("shard-*.parquet")):
        yield read_shard(path, columns)


def read_shard(path: Path, columns: tuple[str, ...] | None = None) -> pa.Table:
    """Read one output shard, its page checksums verified; raises OutputError."""
    try:
        return pq.read_table(
            path,
            columns=None if columns is None else list(columns),
            page_checksum_verification=True,
            partitioning=None,
            use_threads=False,
        )
    except (OSError, pa.ArrowException) as error:
        raise OutputError(
            f"{SHARDS}/{path.name}", f"is damaged: {error}; remove it to have it scored again"
        ) from error


class Run:
    """A run directory in this process's hands: a context manager that holds its lock.

    Raises RunError if the directory belongs to another run or another process, naming what differs, and OutputError if
    it cannot be written.
    """

    def __init__(self, directory: Path, plan: Plan, bundle: BundleState) -> None:
        self.directory = directory
        self.plan = plan
        self.manifest = run_manifest(plan, bundle)
        content = json_bytes(self.manifest)
        # Compared with what JSON gives back: tuples have become lists.
        self.manifest = json.loads(content)
        self._content = content
        self.run_id = _id_of(content)  # what the run's files call it
        self.schema = output_schema(plan.passed, plan.files[0].file.name)
        self.bundle = bundle

    def __enter__(self) -> Self:
        make_directory(self.directory, str(self.directory))
        with ExitStack() as stack:
            stack.callback(os.close, _locked(self.directory))
            self._begin()
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def committed(self) -> dict[int, int]:
        """Return {shard number: error rows} of the shards that are there.

        Raises OutputError naming a shard that is damaged or another run's.
        """
        found = {}
        for shard in self.plan.shards:
            path = self.directory / SHARDS / shard_name(shard.number)
            if path.exists():
                found[shard.number] = self._errors_of(path, shard)
        return found

    def commit(self, shard: Shard, batches: list[pa.RecordBatch]) -> int:
        """Write one shard's output from its batches in order; return how many of its rows are error rows.

        Committing a shard twice leaves the same bytes. Raises OutputError.
        """
        table = pa.Table.from_batches(batches, self.schema)
        if len(table) != shard.rows:
            raise RuntimeError(f"shard {shard.number} has {shard.rows} rows, its output {len(table)}")
        errors = len(table) - table["error_code"].null_count
        facts = {
            "attributary.schema_version": str(SCHEMA_VERSION),
            "attributary.run": self.run_id,
            "attributary.shard": str(shard.number),
            "attributary.errors": str(errors),
        }
        name = f"{SHARDS}/{shard_name(shard.number)}"
        commit(self.directory / name, parquet_bytes(table, facts), name)
        return errors

    def _begin(self) -> None:
        remove_unfinished(self.directory)
        path = self.directory / RUN
        if path.exists():
            self._go_on(read_json(path))
            difference = next(_differences(read_json(path), self.manifest, ""), None)
            if difference is not None:
                raise RunError(
                    difference[0], f"{difference[1]}; finish the run as it began, or choose another --out"
                )
        else:
            others = sorted(entry.name for entry in self.directory.iterdir() if entry.name != LOCK)
            if others:
                raise RunError(
                    "out", f"{self.directory} holds {others[0]} and no {RUN}: it is no run's directory"
                )
            commit(path, self._content, RUN)
        make_directory(self.directory / SHARDS, SHARDS)
        remove_unfinished(self.directory / SHARDS)

    def _go_on(self, there: Any) -> None:
        """A bundle that has been changed since the run began is still its bundle: the run keeps its first revision."""
        begun = there.get("bundle_revision") if isinstance(there, dict) else None
        if isinstance(begun, int) and begun != self.manifest["bundle_revision"]:
            self.manifest["bundle_revision"] = begun
            self._content = json_bytes(self.manifest)
            self.bundle = BundleState(self.bundle.id, begun)
            self.run_id = _id_of(self._content)

    def _errors_of(self, path: Path, shard: Shard) -> int:
        name = f"{SHARDS}/{path.name}"
        try:
            metadata = pq.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            raise OutputError(name, f"is damaged: {error}; remove it to have it scored again") from error
        facts = metadata.metadata or {}
        if facts.get(b"attributary.run", b"").decode() != self.run_id or metadata.num_rows != shard.rows:
            raise OutputError(name, "belongs to another run; remove it to have it scored again")
        return int(facts.get(b"attributary.errors", b"0"))


def _locked(directory: Path) -> int:
    """Take the directory's lock: an open file that holds it."""
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(LOCK, f"cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise RunError("out", f"another process is at work in {directory}") from None
    return lock


def _id_of(content: bytes) -> str:
    """A run's id: the beginning of its run.json's SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def _differences(there: Any, now: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield (setting, what differs) between run.json and what is asked for now."""
    if isinstance(there, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*there, *now]):
            yield from _differences(there.get(name), now.get(name), f"{path}.{name}".lstrip("."))
    elif isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        for number, (one, other) in enumerate(zip(there, now, strict=True)):
            label = one.get("name", number) if isinstance(one, dict) else number
            yield from _differences(one, other, f"{path}[{label}]")
    elif isinstance(there, list) and isinstance(now, list):
        yield path, f"the run has {len(there)}, this command {len(now)}"
    elif there != now:
        yield path, f"the run has {there!r}, this command {now!r}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
