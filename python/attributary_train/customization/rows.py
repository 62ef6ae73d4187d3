"""What every worker of the maker needs, prepared once: latents of exemplars, rows of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from attributary_train.corpus import Corpus, CorpusError
from attributary_train.customization.plan import ROWS, MakeSettings, Planned
from attributary_train.customization.tuning import Rows
from attributary_train.customization.words import States, Words
from attributary_train.errors import CustomizationError
from attributary_train.files import reading, whole
from attributary_train.generators.latents import encode
from attributary_train.subject.prompts import training_prompt


@dataclass(frozen=True)
class Prepared:
    """Latents float32 [C, h, w] by item id; rows of the training set; states of the empty prompt, [T, D]."""

    latents: dict[int, Tensor]
    prior: Rows
    empty: Tensor

    def of(self, entry: Planned) -> Tensor:
        """Latents of an exemplar's items, [N, C, h, w]."""
        return torch.stack([self.latents[number] for number in entry.exemplar.ids])


def square(corpus: Corpus, number: int, size: int, what: str) -> npt.NDArray[np.uint8]:
    """The picture of an item as the autoencoder sees it, uint8 [size, size, 3]; names `what` if it is not readable."""
    try:
        return corpus.square(number, size)
    except CorpusError as error:
        raise CustomizationError(what, str(error)) from error


def prepare_rows(
    folder: Path,
    planned: Sequence[Planned],
    known: Sequence[int],
    corpus: Corpus,
    autoencoder: AutoencoderKL,
    words: Words,
    settings: MakeSettings,
) -> None:
    """Write rows.safetensors. `known`: the items that rows against forgetting are drawn from."""
    size = int(autoencoder.config.sample_size)
    pictures = {
        number: square(corpus, number, size, f"exemplar {entry.name}")
        for entry in planned
        for number in entry.exemplar.ids
    }
    rng = np.random.default_rng((settings.seed, 7))
    chosen = [known[at] for at in sorted(rng.permutation(len(known))[: settings.prior_items])]
    prior = np.stack([square(corpus, number, size, f"training item {number}") for number in chosen])
    prompts = [training_prompt(corpus.item(number)) for number in chosen]
    states = words.states([*prompts, ""]).states
    tensors = {
        "ids": torch.tensor(list(pictures), dtype=torch.int64),
        "latents": encode(autoencoder, np.stack(list(pictures.values()))).contiguous(),
        "prior_latents": encode(autoencoder, prior).contiguous(),
        "prior_states": states[:-1].contiguous(),
        "empty": states[-1].contiguous(),
    }
    with whole(folder / ROWS, CustomizationError) as stream:
        stream.write(to_bytes(tensors))


def load_rows(folder: Path) -> Prepared:
    """Raises `CustomizationError` if the file is gone or damaged."""
    with reading(folder / ROWS, CustomizationError, "not readable; make the plan again"):
        parts = load_file(folder / ROWS)
        latents = dict(zip(parts["ids"].tolist(), parts["latents"], strict=True))
        states = parts["prior_states"]
        nowhere = torch.full((len(states),), -1, dtype=torch.int64)
        return Prepared(latents, Rows(parts["prior_latents"], States(states, nowhere)), parts["empty"])
