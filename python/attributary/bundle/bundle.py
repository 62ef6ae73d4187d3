"""Opening a bundle: nothing of it is used before its manifest's hashes hold and its parts belong together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attributary.errors import BundleError

from .files import verify_files
from .golden import GOLDEN, Golden
from .items import ITEMS, LOOK, ItemTable
from .manifest import CROP, MANIFEST, Manifest
from .thumbnails import THUMBNAILS, Thumbnails

ENCODER = "encoder.onnx"
ENCODER_INT8 = "encoder.int8.onnx"
TOKENIZER = "tokenizer.json"
INDEX = "index.faiss"
VECTORS = "vectors.npy"
LOOKS = "looks.npy"
DELTA = "delta"
REQUIRED = (ENCODER, TOKENIZER, INDEX, VECTORS, ITEMS, GOLDEN)


@dataclass(frozen=True)
class Bundle:
    """An open bundle. Vectors are memory-mapped, fp16 [N, D], rows of unit length."""

    directory: Path
    manifest: Manifest
    items: ItemTable
    vectors: NDArray[np.float16]
    golden: Golden
    # What the items look like, int8 [N, *LOOK], zeros where that is not known; None in bundles that know no pictures.
    looks: NDArray[np.int8] | None = None
    thumbnails: Thumbnails | None = None

    @classmethod
    def open(cls, directory: Path | str, verify: bool = True) -> Bundle:
        """Open a bundle directory.

        `verify` checks the SHA-256 of every file; skip it only for a bundle that was verified a moment ago. Raises
        BundleError naming the file at fault: missing, changed, of an unknown schema, or of another encoder. Whoever
        shows items reads the journal beside this, with `attributary.delta.journal.place.changes_of`.
        """
        directory = Path(directory)
        manifest = Manifest.read(directory)
        check_delta(directory, manifest)
        for name in REQUIRED:
            if name not in manifest.files:
                raise BundleError(name, "is not listed in the manifest")
        if manifest.encoder.fit not in ("", CROP):
            raise BundleError(
                MANIFEST,
                f"encoder.fit is {manifest.encoder.fit!r}, this build knows {CROP!r}; use a matching release",
            )
        digests = dict(manifest.files) if verify else {}
        mapped = {name: digests.pop(name) for name in (VECTORS, LOOKS) if name in digests}
        verify_files(directory, digests)
        if manifest.index.encoder_digest != manifest.encoder.digest:
            raise BundleError(
                INDEX, _mismatch("codes", manifest.index.encoder_digest, manifest.encoder.digest)
            )
        if manifest.files[ENCODER] != manifest.encoder.digest:
            raise BundleError(ENCODER, _mismatch("vectors", manifest.encoder.digest, manifest.files[ENCODER]))
        # The largest files are hashed while the items are read; neither is used before both are done.
        with ThreadPoolExecutor(1, "hashing") as beside:
            verified = beside.submit(verify_files, directory, mapped)
            items = ItemTable.read(directory / ITEMS)
            verified.result()
        vectors = _mapped(directory / VECTORS, np.float16, (manifest.item_count, manifest.encoder.dim))
        if len(items) != len(vectors):
            raise BundleError(ITEMS, f"has {len(items)} rows, vectors.npy has {len(vectors)}")
        golden = Golden.read(directory / GOLDEN)
        looks = None
        if LOOKS in manifest.files:
            looks = _mapped(directory / LOOKS, np.int8, (manifest.item_count, *LOOK))
        thumbnails = Thumbnails(directory / THUMBNAILS) if THUMBNAILS in manifest.files else None
        return cls(directory, manifest, items, vectors, golden, looks, thumbnails)

    @property
    def encoder_path(self) -> Path:
        """The fp32 encoder."""
        return self.directory / ENCODER

    @property
    def int8_encoder_path(self) -> Path | None:
        """The quantised encoder, if the bundle has one."""
        return self.directory / ENCODER_INT8 if ENCODER_INT8 in self.manifest.files else None

    @property
    def tokenizer_path(self) -> Path:
        """The prompt tokenizer."""
        return self.directory / TOKENIZER

    @property
    def index_path(self) -> Path:
        """The candidate index."""
        return self.directory / INDEX


def delta_path(directory: Path | str, bundle_id: str) -> Path:
    """The journal of what was added to and deleted from a bundle since its build (`attributary.delta`)."""
    return Path(directory) / DELTA / f"{bundle_id}.log"


def check_delta(directory: Path, manifest: Manifest) -> None:
    """Raise BundleError if a bundle that has a journal is a copy without it."""
    path = delta_path(directory, manifest.bundle_id)
    if manifest.delta and not path.is_file():
        raise BundleError(
            f"{DELTA}/{path.name}",
            "is missing, and with it every deletion since the bundle was built: copy the whole directory (`cp -r`, "
            "`rsync -a`) from where it came from",
        )


def _mismatch(what: str, made_by: str, present: str) -> str:
    return (
        f"{what} were made by encoder {made_by[:12]}..., the bundle holds encoder {present[:12]}...; "
        "they do not belong together"
    )


def _mapped(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BundleError(path.name, f"cannot be mapped: {error}") from error
    if rows.dtype != dtype or rows.shape != shape:
        found = f"{rows.dtype} {list(rows.shape)}"
        raise BundleError(path.name, f"must be {np.dtype(dtype)} {list(shape)}, is {found}")
    return np.asarray(rows)
