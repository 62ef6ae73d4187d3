"""What a subject model is trained on, ready for it: ids, prompts, latents and token states in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from attributary_train.corpus import Corpus
from attributary_train.errors import SubjectError
from attributary_train.files import whole
from attributary_train.generators.latents import encode
from attributary_train.subject.captions import Captions, captions_of
from attributary_train.subject.pictures import corpus_digest, squares
from attributary_train.subject.prompts import training_prompt
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.text import token_states
from attributary_train.towers.weights import weights_digest

if TYPE_CHECKING:
    from attributary_train.generators.reader import PipelineText
    from attributary_train.subject.own_text import OwnText


@dataclass(frozen=True)
class SubjectData:
    """Training items in a fixed order.

    ids: int64 [N]; prompts: N strings; latents: float32 [N, C, h, w], scaled; text: float32 [N, T, D]; both of an
    adopted model in half precision and mapped from their files;
    empty: float32 [T, D], the states of the empty prompt; digest: SHA-256 of ids, pictures and captions. Styles and
    creators are not in the digest although prompts carry them: a corpus that differs in these alone passes as the same.
    `captions`: where an item has several, which the digest then covers; `prompts` and `text` are those of the level
    that is drawn most often. `start`: the weights that training starts from, None for chance.
    """

    ids: npt.NDArray[np.int64]
    prompts: tuple[str, ...]
    latents: Tensor
    text: Tensor
    empty: Tensor
    digest: str
    captions: Captions | None = None
    start: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: str) -> SubjectData:
        """The same items with their tensors on a device."""
        if str(self.latents.device) == device:
            return self
        return replace(
            self,
            latents=self.latents.to(device),
            text=self.text.to(device),
            empty=self.empty.to(device),
            captions=None if self.captions is None else self.captions.to(device),
        )

    def rows(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions of ids; raises `SubjectError` naming an id that is not in the training set."""
        where = {int(number): row for row, number in enumerate(self.ids)}
        try:
            return np.array([where[int(number)] for number in ids], np.int64)
        except KeyError as error:
            raise SubjectError(
                "candidate id", f"{error.args[0]} is not in the training set of {len(self)} items"
            ) from None

    def text_at(self, rows: Tensor, timesteps: Tensor) -> Tensor:
        """Token states that the items of rows [B] are asked with at timesteps [B], float32 [B, T, D].

        An item's one caption; where it has several, the one that belongs to (item, timestep), so that a mean over
        timesteps is one over its captions too.
        """
        if self.captions is None:
            return self.text[rows]
        return self.captions.at(rows, torch.from_numpy(self.ids)[rows.cpu()], timesteps)

    def select(self, rows: npt.NDArray[np.int64]) -> SubjectData:
        """The items of the rows, as data of their own."""
        pick = torch.from_numpy(np.asarray(rows, np.int64))
        return SubjectData(
            self.ids[rows],
            tuple(self.prompts[row] for row in rows),
            self.latents[pick],
            self.text[pick],
            self.empty,
            hashlib.sha256((self.digest + ",".join(map(str, self.ids[rows]))).encode()).hexdigest(),
            None if self.captions is None else self.captions.select(pick),
            self.start,
        )


def load_data(
    corpus: Corpus,
    ids: Collection[int],
    recipe: Recipe,
    autoencoder: AutoencoderKL,
    cache: Path,
    text: OwnText | PipelineText | None = None,
) -> SubjectData:
    """Encode the items `ids` of a corpus (in corpus order); latents are kept in `cache`.

    `text`: how an adopted checkpoint reads prompts. Prompts are then the captions as they are, their states are kept as
    well, in half precision as the latents, and the digest also covers the encoder and the size of the pictures.
    """
    wanted = set(ids)
    missing = [number for number in wanted if number not in corpus]
    if missing:
        raise SubjectError(
            "ids", f"{len(missing)} items of the training set are not in {corpus.root}, e.g. {missing[0]}"
        )
    chosen = corpus.select(ids=wanted)
    if not len(chosen):
        raise SubjectError("ids", "the training set is empty")
    prompts = []
    for item in chosen:
        if not item.caption.strip():
            raise SubjectError(
                "caption", f"item {item.id} ({item.key}) has none; the generator is conditioned on text"
            )
        prompts.append(training_prompt(item) if text is None else item.caption)
    digest = corpus_digest(chosen)
    half = text is not None

    def latents() -> Iterator[npt.NDArray[np.float32]]:
        rows = np.array([row for row, item in enumerate(corpus) if item.id in wanted])
        pictures = squares(corpus, recipe.image_size, cache)
        for at in range(0, len(rows), _ROWS):
            yield encode(autoencoder, np.asarray(pictures[rows[at : at + _ROWS]])).numpy()

    several: Captions | None = None
    if recipe.captions and text is None:
        several = captions_of(
            corpus, list(chosen), recipe.captions, lambda asked: token_states(asked, recipe.tokens)
        )
        prompts = several.of_level(max(recipe.captions, key=lambda level: level[1])[0])

    about = f"{digest}{recipe.image_size}{weights_digest(autoencoder)}"
    encoded = kept_rows(cache, "latents", about, len(chosen), latents, half)
    if several is not None:
        digest = hashlib.sha256(f"{digest}{several.words()}".encode()).hexdigest()
        main = several.levels.index(max(recipe.captions, key=lambda level: level[1])[0])
        text_states = several.states[several.of_item[:, main]]
        states = torch.cat([text_states, token_states([""], recipe.tokens)])
        of_items = states[:-1].clone()
    elif text is None:
        states = token_states([*prompts, ""], recipe.tokens)
        of_items = states[:-1].clone()
    else:
        read, asked = text, [*prompts, ""]
        digest = hashlib.sha256(f"{digest}{recipe.image_size}{text.digest}".encode()).hexdigest()

        def states_of() -> Iterator[npt.NDArray[np.float32]]:
            for at in range(0, len(asked), _ROWS):
                yield read(asked[at : at + _ROWS]).numpy()

        states = torch.from_numpy(kept_rows(cache, "text", digest, len(asked), states_of, half))
        # A view of the file: gigabytes that are read where they are asked for, once for all workers of a machine.
        of_items = states[:-1]
    return SubjectData(
        np.array([item.id for item in chosen], np.int64),
        tuple(prompts),
        torch.from_numpy(encoded),
        of_items,
        states[-1].float().clone(),
        digest,
        several,
    )


# Rows that are made and written at a time.
_ROWS = 1024


def kept_rows(
    cache: Path,
    kind: str,
    about: str,
    count: int,
    make: Callable[[], Iterator[npt.NDArray[np.float32]]],
    half: bool,
) -> npt.NDArray[Any]:
    """`count` rows from a file of `cache`, made in pieces and written as they come; float16 if `half`.

    What comes back is mapped: only what is asked for is read, and all processes of a machine share it.
    """
    name = f"{kind}16" if half else kind
    path = cache / f"{name}-{hashlib.sha256(about.encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        with whole(path, SubjectError) as stream:
            _write_rows(stream, path, count, make(), np.dtype(np.float16 if half else np.float32))
    # Mapped, and private to this process should anybody write to it: torch takes no array that is read-only.
    kept: npt.NDArray[Any] = np.load(path, mmap_mode="c")
    return kept


def _write_rows(
    stream: IO[bytes], path: Path, count: int, pieces: Iterator[npt.NDArray[np.float32]], dtype: np.dtype[Any]
) -> None:
    for at, piece in enumerate(pieces):
        if at == 0:
            descr = np.lib.format.dtype_to_descr(dtype)
            header = {"descr": descr, "fortran_order": False, "shape": (count, *piece.shape[1:])}
            np.lib.format.write_array_header_1_0(stream, header)
        rounded = piece.astype(dtype)
        if not np.isfinite(rounded).all():
            raise SubjectError(str(path), f"a value is beyond {dtype.name}, or not finite")
        stream.write(np.ascontiguousarray(rounded).data)
