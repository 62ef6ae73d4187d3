"""The encoder as a Triton model: ONNX Runtime on the bundle's own file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from attributary.errors import BundleError, InvalidArgumentError

from .host import Outcome, Tensors


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
        outcomes: list[Outcome] = [{} for _ in requests]
        good: list[int] = []
        for number, request in enumerate(requests):
            problem = _problem(request)
            if problem is None:
                good.append(number)
            else:
                outcomes[number] = problem
        if not good:
            return outcomes
        members = [requests[number] for number in good]
        if len(members) == 1:
            # As they lie in Triton's memory: no copy of a lone picture.
            outcomes[good[0]] = {"embedding": self._encode(members[0])}
            return outcomes
        longest = max(request["token_ids"].shape[1] for request in members)
        feed = {
            "pixels": np.concatenate([request["pixels"] for request in members]),
            "token_ids": np.concatenate([_padded(request["token_ids"], longest) for request in members]),
            "token_mask": np.concatenate([_padded(request["token_mask"], longest) for request in members]),
        }
        embedding = self._encode(feed)
        ends = np.cumsum([len(request["pixels"]) for request in members])[:-1]
        for number, part in zip(good, np.split(embedding, ends), strict=True):
            outcomes[number] = {"embedding": part}
        return outcomes

    def _encode(self, feed: Tensors) -> NDArray[np.float32]:
        embedding: NDArray[np.float32] = self._session.run(["embedding"], feed)[0]
        return embedding


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
