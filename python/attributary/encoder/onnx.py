"""The embedded encoder: ONNX Runtime in the serving process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..bundle.files import require_digest
from ..errors import BundleError, InvalidArgumentError, UnavailableError
from .base import EncoderSpec

# Keys of the ONNX file's metadata, written by the export.
META_NAME = "attributary.name"
META_MAX_TOKENS = "attributary.max_tokens"
META_VARIANT_OF = "attributary.variant_of"

_INPUTS = {"pixels": "tensor(uint8)", "token_ids": "tensor(int64)", "token_mask": "tensor(int64)"}
OUTPUT = "embedding"
# Where a picture with its caption stands as an item, in encoders whose items are not where queries are.
ITEM = "item"


class OnnxEncoder:
    """Runs an exported encoder. Safe to call from several threads; a call uses `threads` cores.

    The file describes itself: name and token limit are in its metadata, sizes in the shapes of its graph.
    It is read once, so the digest is of the very bytes that run; with `digest`, SHA-256 in hex, no others do. Raises
    `BundleError` for a file that is no such encoder and `UnavailableError` for an execution provider that this build
    of ONNX Runtime lacks.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        spinning: bool = False,
        digest: str | None = None,
    ) -> None:
        missing = [name for name in providers if name not in ort.get_available_providers()]
        if missing:
            raise UnavailableError(
                f"this build of ONNX Runtime has no {', '.join(missing)}; it has "
                f"{', '.join(ort.get_available_providers())} (the GPU ones come with onnxruntime-gpu)"
            )
        self._file = path.name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(path.name, f"cannot be read: {error.strerror}") from error
        found = hashlib.sha256(data).hexdigest()
        if digest is not None:
            require_digest(path.name, found, digest)
        try:
            self._session = ort.InferenceSession(data, _options(threads, spinning), providers=list(providers))
        except Exception as error:
            # ONNX Runtime's own exception classes are not part of its public interface.
            raise BundleError(path.name, f"is not a model that ONNX Runtime can load: {error}") from error
        self._spec = self._read_spec(found)
        meta = self._session.get_modelmeta().custom_metadata_map
        self._vectors_of: str = meta.get(META_VARIANT_OF, self._spec.digest)

    @property
    def spec(self) -> EncoderSpec:
        """The encoder's facts."""
        return self._spec

    @property
    def vectors_of(self) -> str:
        """Digest of the encoder whose vectors this one's may be compared with: itself, or its original.

        An int8 variant is another file than the fp32 encoder that the index was built with, and names it.
        """
        return self._vectors_of

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's execution providers in use, the preferred one first."""
        return tuple(self._session.get_providers())

    def encode(
        self,
        pixels: NDArray[np.uint8],
        token_ids: NDArray[np.int64],
        token_mask: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Embed a batch; see `Encoder.encode`. Raises `InvalidArgumentError` naming the array at fault."""
        return self._run(OUTPUT, pixels, token_ids, token_mask)

    def encode_items(
        self,
        pixels: NDArray[np.uint8],
        token_ids: NDArray[np.int64],
        token_mask: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Place a batch as items; see `Encoder.encode_items`."""
        return self._run(ITEM if self._spec.lengths else OUTPUT, pixels, token_ids, token_mask)

    def _run(
        self,
        output: str,
        pixels: NDArray[np.uint8],
        token_ids: NDArray[np.int64],
        token_mask: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        self._check_pixels(pixels)
        self._check_tokens(token_ids, token_mask, len(pixels))
        if len(pixels) == 0:
            return np.zeros((0, self._spec.dim), np.float32)
        feed = {"pixels": pixels, "token_ids": token_ids, "token_mask": token_mask}
        found: NDArray[np.float32] = self._session.run([output], feed)[0]
        return found

    def _check_pixels(self, pixels: NDArray[np.uint8]) -> None:
        size = self._spec.image_size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise InvalidArgumentError(
                "query.pixels",
                f"must be uint8 [B, {size}, {size}, 3], not {pixels.dtype} {list(pixels.shape)}",
            )

    def _check_tokens(self, ids: NDArray[np.int64], mask: NDArray[np.int64], rows: int) -> None:
        limit = self._spec.max_tokens
        for name, array in (("query.token_ids", ids), ("query.token_mask", mask)):
            if array.dtype != np.int64 or array.ndim != 2 or len(array) != rows:
                raise InvalidArgumentError(
                    name, f"must be int64 [{rows}, T], not {array.dtype} {list(array.shape)}"
                )
        if ids.shape != mask.shape:
            raise InvalidArgumentError(
                "query.token_mask", f"has shape {list(mask.shape)}, token_ids {list(ids.shape)}"
            )
        if not 1 <= ids.shape[1] <= limit:
            raise InvalidArgumentError(
                "query.token_ids", f"has {ids.shape[1]} tokens; the limit is 1 to {limit}"
            )

    def _read_spec(self, digest: str) -> EncoderSpec:
        inputs = {value.name: value for value in self._session.get_inputs()}
        outputs = {value.name: value for value in self._session.get_outputs()}
        kinds = {name: value.type for name, value in inputs.items()}
        if kinds != _INPUTS or OUTPUT not in outputs:
            raise BundleError(
                self._file,
                f"must have the inputs {_INPUTS} and the output {OUTPUT!r}, has {kinds}, {[*outputs]}",
            )
        meta = self._session.get_modelmeta().custom_metadata_map
        shape, dim = inputs["pixels"].shape, outputs[OUTPUT].shape[-1]
        fixed = len(shape) == 4 and isinstance(shape[1], int) and shape[1] == shape[2] and shape[3] == 3
        if not fixed or not isinstance(dim, int) or not meta.get(META_MAX_TOKENS, "").isdigit():
            raise BundleError(
                self._file,
                f"must say its image size and dimensions in its shapes (pixels {shape}, embedding "
                f"{outputs[OUTPUT].shape}) and {META_MAX_TOKENS} in its metadata",
            )
        return EncoderSpec(
            name=meta.get(META_NAME, "unnamed"),
            digest=digest,
            dim=dim,
            image_size=shape[1],
            max_tokens=int(meta[META_MAX_TOKENS]),
            lengths=ITEM in outputs,
        )


def _options(threads: int, spinning: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A server's cores belong to the next request, not to a thread that waits for work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.log_severity_level = 3
    return options
