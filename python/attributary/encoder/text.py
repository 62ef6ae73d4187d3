"""Prompts to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ..errors import BundleError, InvalidArgumentError

# Prompts are clipped before they are tokenised, so that a 100 kB prompt costs no more than the tokens it
# keeps. Words and spaces of a real prompt are far shorter than this for each token.
_MAX_CHARS_PER_TOKEN = 64


class PromptTokenizer:
    """Cuts prompts into the tokens of a text tower. Safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        if max_tokens < 3:
            raise ValueError(f"max_tokens must be at least 3 (two are special), not {max_tokens}")
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self._tokenizer = tokenizer
        self._specials = len(tokenizer.encode("").ids)
        self.max_tokens = max_tokens

    @classmethod
    def from_file(cls, path: Path, max_tokens: int) -> PromptTokenizer:
        """Read a `tokenizer.json`; prompts are cut after `max_tokens` tokens, special ones included.

        Raises `BundleError` naming the file if it cannot be read or is something else, and for too small a limit.
        """
        try:
            return cls(Tokenizer.from_buffer(path.read_bytes()), max_tokens)
        except OSError as error:
            raise BundleError(path.name, f"cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise BundleError(path.name, f"is not a tokenizer for this encoder: {error}") from error

    def encode(self, prompt: str, *, field: str = "query.prompt") -> NDArray[np.int64]:
        """Token ids of one prompt, int64 [T] with T <= max_tokens; T = 0 for a prompt without any word.

        Raises `InvalidArgumentError` naming `field` for text that is not valid Unicode.
        """
        clipped = prompt[: self.max_tokens * _MAX_CHARS_PER_TOKEN]
        try:
            ids = self._tokenizer.encode(clipped).ids
        except (UnicodeError, TypeError) as error:
            raise InvalidArgumentError(field, f"is not valid Unicode text ({error})") from error
        if len(ids) <= self._specials:
            return np.zeros(0, np.int64)
        return np.asarray(ids, np.int64)

    @staticmethod
    def pad(prompts: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bring prompts of `encode` to one length; returns ids and mask, int64 [B, T] each.

        T is the longest prompt's length, and 1 where no row has a prompt: the text tower then costs next to
        nothing.
        """
        longest = max((len(tokens) for tokens in prompts), default=0)
        ids = np.zeros((len(prompts), max(1, longest)), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(prompts):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return ids, mask
