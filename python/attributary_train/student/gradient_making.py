"""From a generator student's folder to one that takes the generator's gradient too, and whose items have lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from attributary.encoder.onnx import ITEM, OUTPUT
from attributary_train.errors import StudentError

from .config import StudentConfig
from .export import ENCODER, export_encoder
from .folder import Handover, read_facts, write_folder
from .gradient_head import GradientHead, GradientSettings, GradientStudent, fit_gradient, parts_of
from .gradient_tower import GradientTower
from .making import samples_of
from .own_words_making import placed_by_encoder, reopen_generator
from .studio import Studio, to_tensor

_BATCH, _SAMPLES = 64, 64


def give_gradient(
    studio: Studio, folder: Path, out: Path, say: Callable[[str], None], settings: GradientSettings
) -> GradientHead:
    """Fit the joint embedding to the items and write the student's folder with it; nothing is learnt of labels here.

    Raises `StudentError` for a student whose item vectors are not what its encoder makes of items, or that has the
    gradient.
    """
    facts = read_facts(folder)
    if facts.get("vectors_made_by") != "encoder" or "gradient" in facts:
        raise StudentError(
            str(folder),
            "takes the gradient, or has vectors that its encoder did not make; train one with generator-placed",
        )
    student, sight, state = reopen_generator(studio, folder)
    config = StudentConfig.from_json(facts["config"])
    gradient = GradientTower(studio.subject.model, settings.rank, student.max_tokens).eval()
    captions, pictures = sight.captions(), studio.item_pictures(config.items)
    ids, mask = studio.words.encode(captions)
    say(f"gradients of {len(pictures)} items")
    parts = []
    with torch.no_grad():
        for at in range(0, len(pictures), _BATCH):
            some = slice(at, at + _BATCH)
            parts.append(parts_of(student, gradient, to_tensor(pictures[some]), ids[some], mask[some]))
        learnt, gradients = (torch.cat(rows).clone() for rows in zip(*parts, strict=True))
    head = fit_gradient(learnt, gradients, settings)
    ready = GradientStudent(student, gradient, head).eval()
    out.mkdir(parents=True, exist_ok=True)
    samples = samples_of(studio, studio.queries.take(range(min(_SAMPLES, len(studio.queries)))))
    exported = export_encoder(
        out, ready, studio.words.save_tokenizer(out), samples, int8=False, outputs=(OUTPUT, ITEM)
    )
    say("items placed by the encoder")
    vectors = placed_by_encoder(out / ENCODER, studio, captions, config)
    about = Handover(
        facts["name"], facts["kind"], facts["config"], facts["subject"]["weights"], facts["subject"]["id"],
        facts["labels"]["digest"], facts["labels"]["queries"],
    )  # fmt: skip
    kept = ("loss", "scales", "taught", "words", "vectors_made_by")
    state |= {f"gradient.{name}": value for name, value in head.state_dict().items()}
    write_folder(
        out, about, studio.subject.data.ids, vectors, state,
        {**{key: facts[key] for key in kept if key in facts}, "gradient": asdict(settings), "encoder": exported},
    )  # fmt: skip
    return head
