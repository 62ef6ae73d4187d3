"""The encoder as a Triton model: ONNX Runtime on the bundle's own file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from attributary.errors import BundleError, InvalidArgumentError

from .host import Outcome, Tensors, answer_valid, joined, split


class EncoderModel:
    """pixels UINT8 [B, S, S, 3], token_ids and token_mask INT64 [B, T] -> embedding FP32 [B, D], unit length.

    Parameters: `model` (path of the ONNX file), `sha256_model`, `threads` (cores of one call). Raises BundleError.
    """

    inputs = ("pixels", "token_ids", "token_mask")

    def __init__(self, parameters: Mapping[str, str], folder: Path) -> None:
        path = Path(parameters["model"])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(path.name, f"cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != parameters["sha256_model"]:
            raise BundleError(path.name, "has changed since the bundle was verified")
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"])
        options.inter_op_num_threads = 1
        # The cores belong to the next request, not to a thread that waits for work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(self, requests: Sequence[Tensors]) -> list[Outcome]:
        """Encode all pictures in one call; prompts are padded to the longest."""
        return answer_valid(requests, _problem, self._encode)

    def _encode(self, requests: Sequence[Tensors]) -> list[Tensors]:
        longest = max(request["token_ids"].shape[1] for request in requests)
        feed = {
            "pixels": joined([request["pixels"] for request in requests]),
            "token_ids": joined([_padded(request["token_ids"], longest) for request in requests]),
            "token_mask": joined([_padded(request["token_mask"], longest) for request in requests]),
        }
        embedding: NDArray[np.float32] = self._session.run(["embedding"], feed)[0]
        return split({"embedding": embedding}, [len(request["pixels"]) for request in requests])


def _problem(request: Tensors) -> InvalidArgumentError | None:
    ids, mask = request["token_ids"], request["token_mask"]
    if ids.shape != mask.shape:
        return InvalidArgumentError("token_mask", f"has shape {[*mask.shape]}, token_ids {[*ids.shape]}")
    if ids.shape[1] == 0:
        return InvalidArgumentError("token_ids", "must hold at least one token; a masked one is no prompt")
    return None


def _padded(tokens: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    missing = longest - tokens.shape[1]
    return tokens if missing == 0 else np.pad(tokens, ((0, 0), (0, missing)))
