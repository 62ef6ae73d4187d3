"""What Triton's Python backend loads as the encoder; the work is in `attributary.triton.models.encoder`."""

import os
import sys

import triton_python_backend_utils as pb_utils

# The launcher says where the package is if the backend's own environment does not hold it.
sys.path += [path for path in [os.environ.get("ATTRIBUTARY_PACKAGE_PATH")] if path]

from attributary.triton.models.encoder import EncoderModel
from attributary.triton.models.host import Host


class TritonPythonModel:
    """One instance: a process with an ONNX Runtime session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the encoder; what this raises is why Triton does not load the model."""
        self._host = Host(pb_utils, args, EncoderModel)

    def execute(self, requests: list[object]) -> list[object]:
        """Answer a batch of requests, one response each."""
        return self._host.execute(requests)
