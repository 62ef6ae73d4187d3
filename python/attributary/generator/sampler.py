"""Prompts to pictures: text encoder, denoiser and decoder in ONNX Runtime, DDIM between them in NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from attributary.errors import BundleError, InvalidArgumentError, check_range

MAX_STEPS: Final = 200
MAX_PROMPT_CHARS: Final = 4_000
MAX_SEED: Final = 2**32 - 1
MAX_GUIDANCE: Final = 20.0
# Values that torch turns into normal ones together.
_BLOCK = 16
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """One picture that is asked for; raises InvalidArgumentError for what cannot be had."""

    prompt: str
    seed: int = 0
    steps: int = 30
    guidance: float = 3.0

    def __post_init__(self) -> None:
        if len(self.prompt) > MAX_PROMPT_CHARS:
            raise InvalidArgumentError(
                "prompt", f"has {len(self.prompt)} characters, the limit is {MAX_PROMPT_CHARS}"
            )
        check_range("seed", self.seed, 0, MAX_SEED)
        check_range("steps", self.steps, 1, MAX_STEPS)
        check_range("guidance", self.guidance, 0, MAX_GUIDANCE)


class Sampler:
    """A folder that `attributary-train subject export` wrote. Safe to call from several threads.

    Raises BundleError naming the file that is missing or no such file.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        facts = _facts(folder / "generator.json")
        try:
            self.weights = str(facts["weights"])
            self._tokens = int(facts["tokens"])
            self._shape = tuple(int(side) for side in facts["shape"])
            self._alphas = np.asarray(facts["alphas"], np.float64)
            self._last, self._offset = float(facts["last_alpha"]), int(facts["offset"])
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError("generator.json", f"is no description of a generator: {error}") from None
        self._text, self._denoiser, self._decoder = (
            _session(folder / name, threads) for name in ("text.onnx", "denoiser.onnx", "decoder.onnx")
        )
        try:
            self._tokenizer = Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
        except (OSError, ValueError) as error:
            raise BundleError("tokenizer.json", f"cannot be read: {error}") from None
        self._tokenizer.enable_truncation(self._tokens)
        self._tokenizer.enable_padding(length=self._tokens)

    def picture(self, wish: Wish, progress: Progress | None = None) -> NDArray[np.uint8]:
        """Return uint8 RGB [S, S, 3]; `progress` hears (steps done, steps) after each, and may raise to end it."""
        latents = self.latents(wish, progress)
        pixels = self._decoder.run(["pixels"], {"latents": latents})[0][0]
        return np.ascontiguousarray(np.rint(pixels).astype(np.uint8).transpose(1, 2, 0))

    def latents(self, wish: Wish, progress: Progress | None = None) -> NDArray[np.float32]:
        """Return float32 [1, C, h, w]: DDIM (Song et al., 2021) without added noise, guided away from the empty prompt
        (Ho and Salimans, 2022), as `attributary_train.subject.sample` draws them."""
        states = self._states(["", wish.prompt])
        x = starting_noise(wish.seed, self._shape)[None]
        stride = len(self._alphas) // wish.steps
        for step in range(wish.steps):
            t = (wish.steps - 1 - step) * stride + self._offset
            feed = {"latents": np.concatenate([x, x]), "timestep": np.full(2, t, np.int64), "states": states}
            free, bound = self._denoiser.run(["noise"], feed)[0]
            noise = free + np.float32(wish.guidance) * (bound - free)
            x = self._moved(x, noise[None], t, t - stride)
            if progress is not None:
                progress(step + 1, wish.steps)
        return x

    def _moved(
        self, x: NDArray[np.float32], noise: NDArray[np.float32], t: int, to: int
    ) -> NDArray[np.float32]:
        """One step of DDIM (equation 12 with eta 0) from timestep t to an earlier one; before the first is `last`."""
        here, there = self._alphas[t], self._alphas[to] if to >= 0 else self._last
        clean = (x - np.sqrt(1 - here) * noise) / np.sqrt(here)
        moved: NDArray[np.float32] = (np.sqrt(there) * clean + np.sqrt(1 - there) * noise).astype(np.float32)
        return moved

    def _states(self, prompts: list[str]) -> NDArray[np.float32]:
        try:
            cut = self._tokenizer.encode_batch(prompts)
        except (UnicodeError, TypeError):
            raise InvalidArgumentError("prompt", "is not valid Unicode text") from None
        feed = {
            "ids": np.asarray([one.ids for one in cut], np.int64),
            "mask": np.asarray([one.attention_mask for one in cut], np.int64),
        }
        states: NDArray[np.float32] = self._text.run(["states"], feed)[0]
        return states


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(path.name, f"cannot be read: {error}") from None
    if not isinstance(facts, dict) or facts.get("schema_version") != 1:
        raise BundleError(path.name, "is no description of a generator of schema_version 1")
    return facts


def _session(path: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime's own exception classes are not part of its public interface.
        raise BundleError(path.name, f"cannot be opened: {error}") from None


def starting_noise(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """`torch.randn(shape, generator=torch.Generator().manual_seed(seed))` on a CPU, to about 1e-6; float32.

    torch takes 24 bits of each number of a Mersenne twister and turns blocks of 16 into normal ones (Box and Muller,
    1958). Raises ValueError unless the values fill whole blocks; others it draws in another way.
    """
    count = int(np.prod(shape))
    if count % _BLOCK or count == 0:
        raise ValueError(f"{count} values are no whole number of blocks of {_BLOCK}")
    # Seeded as the twister's authors do; numpy's newer generators seed it in another way.
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    bits = twister.randint(0, 1 << 32, count, np.uint32)
    uniform = ((bits & 0xFFFFFF) * np.float64(2.0**-24)).reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(-2 * np.log1p(-uniform[:, 0]))
    angle = 2 * np.pi * uniform[:, 1]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normal.astype(np.float32).reshape(shape)
