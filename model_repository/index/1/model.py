"""What Triton's Python backend loads as the index; the work is in `attributary.triton.models.index`."""

import os
import sys

import triton_python_backend_utils as pb_utils

# The launcher says where the package is if the backend's own environment does not hold it.
sys.path += [path for path in [os.environ.get("ATTRIBUTARY_PACKAGE_PATH")] if path]

from attributary.triton.models.host import Host
from attributary.triton.models.index import IndexModel


class TritonPythonModel:
    """The only instance: the one owner of the index."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the index; what this raises is why Triton does not load the model."""
        self._host = Host(pb_utils, args, IndexModel)

    def execute(self, requests: list[object]) -> list[object]:
        """Answer a batch of requests, one response each."""
        return self._host.execute(requests)
