"""From a generator student's folder to one that carries its own text tower instead of the packaged one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary.encoder.onnx import OnnxEncoder
from attributary_train.errors import StudentError
from attributary_train.towers.rows import unit_rows

from .config import StudentConfig
from .export import ENCODER, Samples, export_encoder
from .folder import Handover, read_facts, read_head, require_same, write_folder
from .generator_head import GeneratorHead
from .generator_making import Say, Sight
from .generator_tower import GeneratorStudent
from .making import samples_of
from .own_words import OwnWords, Texts, WordsSettings, described, learn_words, own_words_of
from .studio import Studio, to_tensor

_SAMPLES, _BATCH = 256, 64
# Ways in which people put the captions that a corpus has.
_PUT = ("{}", "a {}", "the {}", "a picture of {}", "a drawing of {}", "{} emoji", "{}, clip art", "two {}")


def reopen_generator(studio: Studio, folder: Path) -> tuple[GeneratorStudent, Sight, dict[str, Tensor]]:
    """A generator student, what it sees by, and its weights, item vectors included. It reads prompts by the packaged
    text tower or, where it has one, by its own.

    Raises `StudentError` if it is of another generator, of other items, or of another kind.
    """
    facts = read_facts(folder)
    require_same(facts, studio.subject.model.weights, studio.subject.data.ids)
    if facts["kind"] != "generator":
        raise StudentError(
            str(folder), f"holds a {facts['kind']} student; one on the generator's denoiser is asked for"
        )
    config = StudentConfig.from_json(facts["config"])
    sight = Sight(studio, config)
    state = read_head(folder)
    empty = studio.subject.data.empty.float()
    head = GeneratorHead(config, sight.items(config)[0], empty)
    head.load_state_dict({key[6:]: value for key, value in state.items() if key.startswith("query.")})
    dim = int(state["items"].shape[1])
    words = own_words_of(facts["words"], state) if "words" in facts else studio.words.tower()
    model = GeneratorStudent(config.name, sight.tower, words, head.eval(), dim)
    return model.eval(), sight, state


def give_own_words(
    studio: Studio, teacher: Path, out: Path, say: Say, settings: WordsSettings | None = None
) -> OwnWords:
    """Teach the tower, and write a folder with the same head and item vectors."""
    settings = settings or WordsSettings()
    student, sight, state = reopen_generator(studio, teacher)
    facts = read_facts(teacher)
    train = studio.queries.split("train")
    config = StudentConfig.from_json(facts["config"])
    pictures = [studio.pictures(train), studio.item_pictures(config.items)]
    data = studio.subject.data
    levels = (
        [data.prompts]
        if data.captions is None
        else [[data.captions.prompts[row] for row in rows] for rows in data.captions.of_item.T.tolist()]
    )
    seen = torch.cat([_latents(sight, to_tensor(some)) for some in pictures])
    latents = torch.cat([seen, *[seen[len(train) :]] * (len(levels) - 1)])
    prompt_texts = _texts(studio, [*train.prompts, *[prompt for level in levels for prompt in level]])
    texts = _texts(studio, texts_of(studio))
    say(f"{len(texts)} texts, {len(prompt_texts)} pictures with prompts")
    # A picture without a prompt needs no words.
    some = prompt_texts.mask.amax(1) > 0
    prompt_texts, latents = (
        Texts(prompt_texts.ids[some], prompt_texts.mask[some], prompt_texts.states[some]),
        latents[some],
    )
    tower = learn_words(
        student, texts, prompt_texts, latents, studio.words.tokenizer().get_vocab_size(), settings, say
    )
    ready = GeneratorStudent(student.name, sight.tower, tower, student.head, student.dim).eval()
    out.mkdir(parents=True, exist_ok=True)
    samples: Samples = samples_of(studio, studio.queries.take(range(min(_SAMPLES, len(studio.queries)))))
    exported = export_encoder(out, ready, studio.words.save_tokenizer(out), samples, int8=True)
    labels, made_for = facts["labels"], facts["subject"]
    about = Handover(
        facts["name"], "generator", facts["config"], made_for["weights"], made_for["id"], labels["digest"],
        labels["queries"],
    )  # fmt: skip
    facts_kept: dict[str, Any] = {key: facts[key] for key in ("loss", "scales", "taught") if key in facts}
    weights = {**state, **{f"words.{name}": value for name, value in tower.state_dict().items()}}
    vectors = unit_rows(state["items"]).numpy()
    if config.by_encoder:
        vectors = placed_by_encoder(out / ENCODER, studio, sight.captions(), config)
        facts_kept |= {"vectors_made_by": "encoder"}
    write_folder(
        out, about, data.ids, vectors, weights,
        {**facts_kept, "words": described(tower, settings), "encoder": exported},
    )  # fmt: skip
    return tower


def placed_by_encoder(
    path: Path, studio: Studio, captions: Sequence[str], config: StudentConfig
) -> npt.NDArray[np.float32]:
    """The items where an exported encoder places them, pictures with captions, as additions to a bundle are placed."""
    encoder, pictures = OnnxEncoder(path), studio.item_pictures(config.items)
    ids, mask = (part.numpy() for part in studio.words.encode(captions))
    parts = [
        encoder.encode_items(pictures[at : at + _BATCH], ids[at : at + _BATCH], mask[at : at + _BATCH])
        for at in range(0, len(pictures), _BATCH)
    ]
    return np.concatenate(parts)


def texts_of(studio: Studio) -> list[str]:
    """Captions of the whole corpus, each put in one of several ways in turn and bare; none of a held-out query."""
    held = {
        prompt
        for prompt, split in zip(studio.queries.prompts, studio.queries.splits, strict=True)
        if split != "train"
    }
    captions = sorted({item.caption.strip() for item in studio.subject.corpus if item.caption.strip()})
    put = [_PUT[at % len(_PUT)].format(caption) for at, caption in enumerate(captions)]
    return sorted({*captions, *put} - held)


def _texts(studio: Studio, prompts: list[str]) -> Texts:
    ids, mask = studio.words.encode(prompts)
    parts = [studio.states(prompts[at : at + 256]).half() for at in range(0, len(prompts), 256)]
    return Texts(ids, mask, torch.cat(parts))


@torch.no_grad()
def _latents(sight: Sight, pictures: Tensor) -> Tensor:
    parts = pictures.split(_BATCH)  # type: ignore[no-untyped-call]
    return torch.cat([sight.tower.latents(some) for some in parts]).clone()
