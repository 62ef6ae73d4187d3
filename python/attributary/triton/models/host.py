"""Between Triton's Python backend and a model: tensors in, tensors out, an error for the request at fault only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from attributary.errors import InvalidArgumentError

Tensors: TypeAlias = dict[str, NDArray[Any]]
Outcome: TypeAlias = Tensors | InvalidArgumentError


_NUMPY_2 = int(np.__version__.split(".")[0]) >= 2


class Model(Protocol):
    """A model in Python. `inputs` names the tensors that it reads; optional ones may be missing from a request."""

    inputs: tuple[str, ...]

    def run(self, requests: Sequence[Tensors]) -> list[Outcome]:
        """Answer the requests of one dynamic batch together, an outcome for each."""
        ...


def answer_valid(
    requests: Sequence[Tensors],
    problem: Callable[[Tensors], InvalidArgumentError | None],
    answer: Callable[[Sequence[Tensors]], list[Tensors]],
) -> list[Outcome]:
    """Answer the requests that have no problem together; the others get theirs."""
    problems = [problem(request) for request in requests]
    valid = [request for request, found in zip(requests, problems, strict=True) if found is None]
    answers = iter(answer(valid) if valid else ())
    return [next(answers) if found is None else found for found in problems]


def joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate; a lone array is used as it lies in Triton's memory."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def split(tensors: Tensors, sizes: Sequence[int]) -> list[Tensors]:
    """Cut the rows of all tensors into parts of `sizes` rows."""
    ends = np.cumsum(sizes).tolist()
    return [
        {name: array[end - size : end] for name, array in tensors.items()}
        for end, size in zip(ends, sizes, strict=True)
    ]


class Host:
    """One model instance. `pb_utils` is Triton's own module, which exists only inside its stub process."""

    def __init__(
        self, pb_utils: Any, args: Mapping[str, str], make: Callable[[Mapping[str, str], Path], Model]
    ) -> None:
        self._pb = pb_utils
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        self._model = make(parameters, folder)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer Triton's requests in their order; those that were cancelled are not worked on."""
        responses: list[Any] = [None] * len(requests)
        live: list[int] = []
        tensors: list[Tensors] = []
        for number, request in enumerate(requests):
            if request.is_cancelled():
                responses[number] = self._error("the caller has gone", self._pb.TritonError.CANCELLED)
                continue
            live.append(number)
            tensors.append(self._read(request))
        outcomes = self._model.run(tensors) if live else []
        for number, outcome in zip(live, outcomes, strict=True):
            if isinstance(outcome, InvalidArgumentError):
                responses[number] = self._error(str(outcome), self._pb.TritonError.INVALID_ARG)
            else:
                responses[number] = self._pb.InferenceResponse(
                    [self._tensor(name, np.ascontiguousarray(array)) for name, array in outcome.items()]
                )
        return responses

    def _read(self, request: Any) -> Tensors:
        found: Tensors = {}
        for name in self._model.inputs:
            tensor = self._pb.get_input_tensor_by_name(request, name)
            if tensor is not None:
                found[name] = tensor.as_numpy()
        return found

    def _tensor(self, name: str, array: NDArray[Any]) -> Any:
        if _NUMPY_2:
            # Tritons built before NumPy 2 send its arrays as zero bytes, without an error; DLPack they understand.
            return self._pb.Tensor.from_dlpack(name, array)
        return self._pb.Tensor(name, array)

    def _error(self, text: str, code: Any) -> Any:
        return self._pb.InferenceResponse(error=self._pb.TritonError(text, code))
