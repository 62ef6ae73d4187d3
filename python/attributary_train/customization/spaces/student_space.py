"""The student of this repository, or any exported encoder, as a server would run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attributary.encoder import OnnxEncoder, PromptTokenizer
from attributary.errors import AttributaryError
from attributary_train.customization.spaces.base import Features, Pictures, in_parts, resized
from attributary_train.customization.spaces.towers import readable
from attributary_train.errors import CustomizationError


class StudentSpace:
    """encoder.onnx and tokenizer.json of a folder; `with_text` gives it the prompt, or an item's caption, as well."""

    def __init__(self, name: str, folder: Path, *, with_text: bool, threads: int = 1) -> None:
        for file in ("encoder.onnx", "tokenizer.json"):
            if not (folder / file).exists():
                raise CustomizationError(
                    f"space {name}", f"{folder} has no {file}; it is no student's folder"
                )
        try:
            self._encoder = OnnxEncoder(folder / "encoder.onnx", threads=threads)
            spec = self._encoder.spec
            self._tokenizer = PromptTokenizer.from_file(folder / "tokenizer.json", spec.max_tokens)
        except AttributaryError as error:
            raise CustomizationError(f"space {name}", str(error)) from error
        self.name, self.reads_text, self.dim = name, with_text, spec.dim
        self.identity = f"student-{spec.digest}-{with_text}"
        self._size = spec.image_size

    def features(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        """Rows of unit length."""
        return in_parts(self._part, pictures, texts)

    def _part(self, pictures: Pictures, texts: Sequence[str]) -> Features:
        prompts = [readable(text) if self.reads_text else "" for text in texts]
        ids, mask = self._tokenizer.pad([self._tokenizer.encode(prompt) for prompt in prompts])
        return np.asarray(self._encoder.encode(resized(pictures, self._size), ids, mask), np.float32)
