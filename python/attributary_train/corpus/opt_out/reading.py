"""Reading the signals of a corpus's own pictures while it is built."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attributary_train.corpus.opt_out import cawg, xmp
from attributary_train.corpus.opt_out.signal import Signal, merge, read_facts, summary, to_table
from attributary_train.corpus.opt_out.site import Site


@dataclass(slots=True)
class Reader:
    """Collects signals; `result` is what a corpus keeps of them."""

    known: Path  # the file of an earlier build of the same corpus
    at: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )
    _found: list[tuple[int, str, Signal]] = field(default_factory=list)
    _sites: dict[Path, Site] = field(default_factory=dict)
    _sidecars: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)  # by folder and stem

    def read(self, item_id: int, uri: str, payload: bytes | Path, folder: Path | None) -> None:
        """Read one picture, and what stands beside it: `folder` is the folder of pictures that it is from, if it is."""
        self._found += [(item_id, uri, signal) for signal in self._signals(payload, folder)]

    def result(self) -> tuple[Any, dict[str, Any]]:
        """(the table to keep, what corpus.json says of it)."""
        facts = merge(read_facts(self.known)[0], self._found, self.at)
        found = summary(facts, self.at)
        found["not_read"] = [] if cawg.available() else ["cawg: c2pa-python is not installed"]
        return to_table(facts, self.at), found

    def _signals(self, payload: bytes | Path, folder: Path | None) -> Iterator[Signal]:
        data = payload if isinstance(payload, bytes) else payload.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        name = "the picture" if isinstance(payload, bytes) or folder is None else _name(payload, folder)
        yield from xmp.data_mining(xmp.xmp_of(data), name, digest)
        yield from cawg.training_mining(data, name, digest)
        if isinstance(payload, Path) and folder is not None:
            for sidecar in self._beside(payload):
                with sidecar.open("rb") as file:
                    # One byte more than is read is enough to say that it is too large.
                    packet = file.read(xmp.MAX_XMP + 1)
                yield from xmp.data_mining(packet, _name(sidecar, folder), hashlib.sha256(packet).hexdigest())
            if folder not in self._sites:
                self._sites[folder] = Site.of(folder)
            yield from self._sites[folder].signals(payload.resolve())

    def _beside(self, picture: Path) -> list[Path]:
        """Sidecars of a picture, whatever the case of their ending and the form of their accents."""
        there = self._sidecars.get(picture.parent)
        if there is None:
            there = self._sidecars[picture.parent] = {}
            for path in sorted(picture.parent.iterdir()):
                if path.suffix.lower() == ".xmp" and path.is_file():
                    there.setdefault(_form(path.stem), []).append(path)
        return [path for stem in (picture.stem, picture.name) for path in there.get(_form(stem), ())]


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
