"""`engines.json`: which engines lie in a directory, for which encoder, GPU and runtime."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from attributary.bundle.files import sha256
from attributary.errors import BundleError, NotFoundError

from .types import EngineRecord, Profile

ENGINES = "engines.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines of one encoder."""

    bundle_id: str  # whose golden queries they were held to
    encoder_digest: str  # SHA-256 of the fp32 ONNX file, hex
    engines: tuple[EngineRecord, ...] = field(default=())

    @classmethod
    def read(cls, directory: Path) -> Engines:
        """Read `engines.json`; raises BundleError naming it."""
        path = directory / ENGINES
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["schema_version"] != SCHEMA_VERSION:
                raise BundleError(
                    ENGINES, f"schema_version is {raw['schema_version']!r}, this build reads {SCHEMA_VERSION}"
                )
            return cls(
                bundle_id=str(raw["bundle_id"]),
                encoder_digest=str(raw["encoder_digest"]),
                engines=tuple(_record(entry) for entry in raw["engines"]),
            )
        except FileNotFoundError:
            raise BundleError(ENGINES, f"is missing from {directory}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(ENGINES, f"cannot be read: {error!r}") from error

    def with_engine(self, record: EngineRecord) -> Engines:
        """Return a copy in which `record` takes the place of the engine of the same file name, if any."""
        others = tuple(entry for entry in self.engines if entry.file != record.file)
        return Engines(self.bundle_id, self.encoder_digest, (*others, record))

    def write(self, directory: Path) -> None:
        """Replace `engines.json` in one step."""
        text = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=2, ensure_ascii=False)
        write_file(directory / ENGINES, text.encode() + b"\n")

    def select(self, runtime: str, *, gpu: str | None = None, precision: str | None = None) -> EngineRecord:
        """Return the newest engine of a runtime, for a GPU and a precision if they are named; or NotFoundError."""
        for record in reversed(self.engines):
            if (
                record.runtime == runtime
                and gpu in (None, record.gpu)
                and precision in (None, record.precision)
            ):
                return record
        wanted = " ".join(part for part in (runtime, precision, gpu and f"for {gpu}") if part)
        raise NotFoundError("engine", f"{wanted} of encoder {self.encoder_digest[:12]}")


def engines_of(directory: Path, bundle_id: str, encoder_digest: str) -> Engines:
    """Return a directory's engines, none if it is new; raises BundleError if they are another encoder's."""
    if not (directory / ENGINES).exists():
        return Engines(bundle_id, encoder_digest)
    found = Engines.read(directory)
    if found.encoder_digest != encoder_digest:
        raise BundleError(
            ENGINES,
            f"belongs to encoder {found.encoder_digest[:12]}..., the bundle holds {encoder_digest[:12]}...; "
            "choose another directory",
        )
    return Engines(bundle_id, encoder_digest, found.engines)


def verify_engine(directory: Path, record: EngineRecord) -> Path:
    """Return the path of an engine whose SHA-256 holds; raises BundleError naming the file that does not."""
    for name, digest in ((record.file, record.sha256), *record.companions.items()):
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise BundleError(name, f"is not in {directory}")
        if (found := sha256(path)) != digest:
            raise BundleError(
                name, f"SHA-256 is {found[:12]}..., {ENGINES} says {digest[:12]}...; it was changed"
            )
    return directory / record.file


def write_file(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _record(raw: dict[str, object]) -> EngineRecord:
    values = {**raw, "profile": Profile(**raw["profile"])}  # type: ignore[arg-type]
    values["compute_capabilities"] = tuple(raw["compute_capabilities"])  # type: ignore[arg-type]
    return EngineRecord(**values)  # type: ignore[arg-type]
