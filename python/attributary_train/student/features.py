"""Tower features of a corpus, computed once: kept by content, so a rebuilt corpus pays for its new items only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from tqdm import tqdm

from attributary.encoder.text import PromptTokenizer

from .graph import to_onnx
from .image_tower import EfficientNetLite0
from .text_tower import MiniLM, minilm_directory

FloatArray = NDArray[np.float32]
# Rows a cache file holds, and so the work that a killed run loses at most.
_SHARD = 512


class FeatureCache:
    """Rows of float32 [dim] by key, in a folder of .npz shards that are only ever added."""

    def __init__(self, folder: Path, name: str, dim: int) -> None:
        self._folder = folder
        self._name = name
        self._dim = dim
        self._rows: dict[str, FloatArray] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for shard in sorted(folder.glob(f"{name}-*.npz")):
            with np.load(shard, allow_pickle=False) as file:
                self._rows.update(zip(file["keys"].tolist(), file["rows"], strict=True))

    def rows(
        self, keys: Sequence[str], compute: Callable[[Sequence[int]], FloatArray], batch: int
    ) -> FloatArray:
        """Rows of these keys, [N, dim]; `compute` gets positions in `keys`, up to `batch`, for those not kept."""
        first: dict[str, int] = {}
        for position, key in enumerate(keys):
            if key not in self._rows:
                first.setdefault(key, position)
        missing = list(first.items())
        bar = tqdm(total=len(missing), desc=f"{self._name.split('-')[0]} features", disable=not missing)
        with bar:
            for start in range(0, len(missing), _SHARD):
                shard = missing[start : start + _SHARD]
                parts = []
                for at in range(0, len(shard), batch):
                    parts.append(compute([position for _, position in shard[at : at + batch]]))
                    bar.update(len(parts[-1]))
                self._add([key for key, _ in shard], np.concatenate(parts))
        if not keys:
            return np.zeros((0, self._dim), np.float32)
        return np.stack([self._rows[key] for key in keys])

    def _add(self, keys: list[str], rows: FloatArray) -> None:
        tag = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        partial = self._folder / f".{self._name}-{tag}.partial.npz"
        np.savez(partial, keys=np.array(keys), rows=rows)
        partial.replace(self._folder / f"{self._name}-{tag}.npz")
        self._rows.update(zip(keys, rows, strict=True))


class TowerFeatures:
    """Runs both untuned towers through ONNX Runtime, about twice as fast here as torch, with a cache on disk."""

    def __init__(self, cache: Path, *, threads: int = 2) -> None:
        self.image_tower = EfficientNetLite0()
        self.text_tower = MiniLM()
        cache.mkdir(parents=True, exist_ok=True)
        image_name = f"image-{_fingerprint(self.image_tower)}"
        text_name = f"text-{_fingerprint(self.text_tower)}"
        size = self.image_tower.image_size
        self._image = _session(cache / f"{image_name}.onnx", threads, lambda path: self._export_image(path, size))
        self._text = _session(cache / f"{text_name}.onnx", threads, self._export_text)
        self._image_cache = FeatureCache(cache, image_name, self.image_tower.dim)
        self._text_cache = FeatureCache(cache, text_name, self.text_tower.dim)
        tokenizer = Tokenizer.from_file(str(minilm_directory() / "tokenizer.json"))
        self._tokenizer = PromptTokenizer(tokenizer, self.text_tower.max_tokens)

    def images(
        self, keys: Sequence[str], pixels: Callable[[int], NDArray[np.uint8]], *, batch: int = 16
    ) -> FloatArray:
        """Pooled features [N, 1280] of pictures; `keys` name their content, `pixels(i)` prepares picture i."""

        def compute(positions: Sequence[int]) -> FloatArray:
            return self.of_pixels(np.stack([pixels(position) for position in positions]))

        return self._image_cache.rows(keys, compute, batch)

    def of_pixels(self, pixels: NDArray[np.uint8]) -> FloatArray:
        """Pooled features [B, 1280] of prepared pictures, uint8 [B, S, S, 3]; nothing is kept."""
        features: FloatArray = self._image.run(None, {"pixels": pixels})[0]
        return features

    def texts(self, texts: Sequence[str], *, batch: int = 64) -> FloatArray:
        """Mean-pooled features [N, 384] of captions; an empty caption gives a zero row."""

        def compute(positions: Sequence[int]) -> FloatArray:
            ids, mask = self._tokenizer.pad([self._tokenizer.encode(texts[position]) for position in positions])
            features: FloatArray = self._text.run(None, {"token_ids": ids, "token_mask": mask})[0]
            return features

        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        return self._text_cache.rows(keys, compute, batch)

    def _export_image(self, path: Path, size: int) -> None:
        pixels = torch.zeros((2, size, size, 3), dtype=torch.uint8)
        to_onnx(self.image_tower, [pixels], {"pixels": {0: "B"}}, "features", path)

    def _export_text(self, path: Path) -> None:
        tokens = torch.ones((2, 5), dtype=torch.int64)
        axes = {0: "B", 1: "T"}
        to_onnx(self.text_tower, [tokens, tokens], {"token_ids": axes, "token_mask": axes}, "features", path)


def _session(path: Path, threads: int, export: Callable[[Path], None]) -> ort.InferenceSession:
    if not path.exists():
        export(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _fingerprint(module: nn.Module) -> str:
    """Names a tower by its weights: features of other weights are never mixed in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().numpy()).tobytes())
    return digest.hexdigest()[:16]
