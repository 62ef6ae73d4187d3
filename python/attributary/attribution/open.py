"""From a bundle directory to an engine that may serve."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from attributary.bundle.bundle import ENCODER, ENCODER_INT8, Bundle
from attributary.bundle.manifest import INT8_LEFT_OUT, Manifest
from attributary.delta.journal.place import changes_of, steadily
from attributary.encoder.base import EncoderSpec
from attributary.encoder.onnx import OnnxEncoder
from attributary.errors import BundleError
from attributary.index.base import VectorIndex
from attributary.index.faiss_index import FaissIndex

from .engine import Engine
from .golden import verify_golden
from .prepare import Preparer
from .types import Limits

Precision = Literal["fp32", "int8"]
OpenIndex = Callable[[Bundle], VectorIndex]


def open_engine(
    directory: Path | str,
    *,
    limits: Limits | None = None,
    encoder_threads: int = 1,
    precision: Precision = "fp32",
    verify: bool = True,
    open_index: OpenIndex | None = None,
) -> Engine:
    """Open the bundle and everything in it: ONNX Runtime and FAISS in this process.

    `verify` checks every file's SHA-256 and the golden queries; a server always does. `precision` "int8" takes the
    quantised encoder. `open_index` opens another index in place of the bundle's own, a remote one for
    instance: its codes differ, so it is held to the golden queries' recall instead of to their answers. What the
    bundle's journal says was added and deleted since it was built is applied. Raises BundleError naming the file at
    fault.
    """

    def opening() -> Engine:
        name, manifest = ENCODER, Manifest.read(Path(directory))
        if precision == "int8":
            if ENCODER_INT8 not in manifest.files:
                why = manifest.notes.get(INT8_LEFT_OUT, "")
                left_out = f", left out when it was built: {why}" if why else ""
                raise BundleError(ENCODER_INT8, f"is not in this bundle{left_out}; serve it with fp32")
            name = ENCODER_INT8
        digest = manifest.files.get(name) if verify else None
        # ONNX Runtime takes as long to load a graph as all the rest does; it holds no lock meanwhile.
        with ThreadPoolExecutor(1, "encoder") as beside:
            coming = beside.submit(
                OnnxEncoder, Path(directory) / name, threads=encoder_threads, digest=digest
            )
            bundle = Bundle.open(directory, verify=verify)
            index = (open_index or _own_index)(bundle)
            encoder = coming.result()
        engine = assemble(bundle, encoder, index, limits)
        if verify:
            verify_golden(engine, precision, own_index=open_index is None)
        if changes := changes_of(bundle):
            # After the golden queries, which are about the bundle as it was built.
            engine.snapshot = engine.snapshot.apply(changes)
        return engine

    return steadily(directory, opening)


def open_preparer(directory: Path | str, *, limits: Limits | None = None, verify: bool = True) -> Preparer:
    """Open what brings queries to an engine that is elsewhere: items, tokenizer, filters; no encoder, no index.

    Raises BundleError.
    """

    def opening() -> Preparer:
        bundle = Bundle.open(directory, verify=verify)
        preparer = Preparer(bundle, EncoderSpec.of(bundle.manifest.encoder), limits)
        if changes := changes_of(bundle):
            preparer.snapshot = preparer.snapshot.apply(changes)
        return preparer

    return steadily(directory, opening)


def assemble(
    bundle: Bundle, encoder: OnnxEncoder, index: VectorIndex, limits: Limits | None = None
) -> Engine:
    """Join an open bundle, its encoder and its index; raises BundleError if they do not belong together."""
    entry = bundle.manifest.encoder
    spec = encoder.spec
    if encoder.vectors_of != entry.digest:
        raise BundleError(
            "vectors.npy",
            f"were made by encoder {entry.digest[:12]}..., the encoder given belongs to {encoder.vectors_of[:12]}...",
        )
    for name, of_file, of_manifest in (
        ("dim", spec.dim, entry.dim),
        ("image_size", spec.image_size, entry.image_size),
        ("max_tokens", spec.max_tokens, entry.max_tokens),
    ):
        if of_file != of_manifest:
            raise BundleError("encoder.onnx", f"has {name} {of_file}, the manifest says {of_manifest}")
    if (index.size, index.dim) != (len(bundle.items), spec.dim):
        raise BundleError(
            "index.faiss",
            f"holds {index.size} vectors of {index.dim} dimensions, the bundle has {len(bundle.items)} of {spec.dim}",
        )
    return Engine(bundle, encoder, index, limits)


def _own_index(bundle: Bundle) -> VectorIndex:
    return FaissIndex.read(bundle.index_path, bundle.manifest.index.nprobe, threads=1)
