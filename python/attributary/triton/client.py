"""Asking Triton over gRPC, on an event loop: tensors out and in, errors as this package's own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from attributary.errors import DeadlineError, OverloadedError, UnavailableError

TYPES: Final[Mapping[str, str]] = {
    "pixels": "UINT8",
    "token_ids": "INT64",
    "token_mask": "INT64",
    "embedding": "FP32",
    "has_prompt": "UINT8",
    "top_k": "INT32",
    "top_creators": "INT32",
    "filter": "UINT8",
}
# A server that is back must be found again within a second, not after gRPC's two minutes.
_CHANNEL: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A machine that has vanished sends no reset; these find out.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """What Triton has counted for one model since it was loaded."""

    requests: int
    queue_ms: float  # sums over all requests
    compute_ms: float


class TritonClient:
    """One connection to Triton, for one event loop. `address` is host:port of its gRPC service.

    Every method raises UnavailableError while Triton is away, or where it has no such model; OverloadedError if a
    queue of Triton is full or too slow; DeadlineError after `timeout_s`. What else Triton refuses is a defect of the
    caller: RuntimeError with its text.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._connection: Any = None

    async def infer(
        self, model: str, tensors: Mapping[str, NDArray[Any]], outputs: tuple[str, ...], timeout_s: float
    ) -> dict[str, NDArray[Any]]:
        """Run one request; tensors as in docs/triton.md. Cancelling the task cancels the request in Triton."""
        inputs = []
        for name, array in tensors.items():
            tensor = triton.InferInput(name, list(array.shape), TYPES[name])
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        result = await self._ask("infer", model, inputs, outputs=wanted, client_timeout=timeout_s)
        return {name: result.as_numpy(name) for name in outputs}

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        """Say whether Triton can answer for a model; False, too, where it does not know it."""
        return bool(await self._ask("is_model_ready", model, client_timeout=timeout_s))

    async def config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """Return a model's config, as the JSON form of Triton's ModelConfig."""
        reply = await self._ask("get_model_config", model, as_json=True, client_timeout=timeout_s)
        return dict(reply["config"])

    async def times(self, model: str, timeout_s: float) -> ModelTimes:
        """Return a model's own statistics."""
        reply = await self._ask("get_inference_statistics", model, as_json=True, client_timeout=timeout_s)
        requests = 0
        spent = dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), 0.0)
        for version in reply.get("model_stats", []):
            counts = version.get("inference_stats", {})
            requests += int(counts.get("success", {}).get("count", 0))
            for phase in spent:
                spent[phase] += int(counts.get(phase, {}).get("ns", 0)) / 1e6
        queue = spent.pop("queue")
        return ModelTimes(requests, queue, sum(spent.values()))

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _ask(self, method: str, *arguments: Any, **settings: Any) -> Any:
        if self._connection is None:
            # Here and not at construction: a channel belongs to the loop it is made on.
            self._connection = triton.InferenceServerClient(self.address, channel_args=list(_CHANNEL))
        try:
            return await getattr(self._connection, method)(*arguments, **settings)
        except InferenceServerException as error:
            _raise(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not our caller: the channel was closed under the request.
            raise UnavailableError("the connection to Triton was closed") from None


def _raise(error: InferenceServerException) -> NoReturn:
    """Raise our error for Triton's."""
    code, text = str(error.status()).removeprefix("StatusCode."), str(error.message())
    if code == "UNAVAILABLE" and ("queue size" in text or "timeout expired" in text):
        raise OverloadedError(f"Triton is overloaded: {text}") from None
    if code in {"UNAVAILABLE", "NOT_FOUND"}:
        raise UnavailableError(f"Triton cannot answer: {text}") from None
    if code == "DEADLINE_EXCEEDED":
        raise DeadlineError("Triton did not answer before the deadline") from None
    if code == "RESOURCE_EXHAUSTED":
        raise OverloadedError(f"Triton is overloaded: {text}") from None
    raise RuntimeError(f"Triton refused the request: {code}: {text}") from None


def scalars(values: list[int], kind: type[np.generic]) -> NDArray[Any]:
    """Return a column [B, 1]."""
    return np.array(values, kind)[:, None]
