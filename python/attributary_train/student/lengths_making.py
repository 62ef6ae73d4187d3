"""From a generator student's folder to one whose items have lengths: the same encoder, and one more output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from attributary.encoder.onnx import ITEM, OUTPUT, OnnxEncoder
from attributary_train.errors import StudentError
from attributary_train.towers.graph import to_onnx, write_model

from .asking import AskedStudent
from .config import StudentConfig, config_named
from .export import DESCRIPTION, ENCODER, PARITY_LIMIT, TOKENIZER, ExportError, file_facts
from .folder import HEAD, Handover, read_facts, read_head, require_same, write_folder
from .generator_making import Sight
from .lengths import Lengths, fit_lengths, gradient_lengths
from .own_words_making import placed_by_encoder
from .studio import Studio

POWER = 0.5
_BARE, _PREFIX = "embedding_of_unit_items", "lengths."


def give_lengths(
    studio: Studio, folder: Path, out: Path, say: Callable[[str], None], power: float = POWER
) -> Lengths:
    """Fit lengths to the gradients of the items and write the student's folder with them.

    Raises `StudentError` for a student whose item vectors are not what its encoder makes of items, or that has lengths.
    """
    facts = read_facts(folder)
    subject = studio.subject
    require_same(facts, subject.model.weights, subject.data.ids)
    if facts.get("vectors_made_by") != "encoder" or "lengths" in facts:
        raise StudentError(
            str(folder),
            "has lengths, or vectors that its encoder did not make; train one with generator-placed",
        )
    config = StudentConfig.from_json(facts["config"])
    seeing = replace(config, gradient=config_named("generator-gradient").gradient)
    sight = Sight(studio, seeing)
    [placed] = sight.placed(seeing)
    say(f"gradients of {len(placed)} items")
    lengths = gradient_lengths(placed.image[:, -sight.tower.gradient_width :])
    fit = fit_lengths(AskedStudent(folder).vectors, lengths, power)
    say(f"lengths foretold at {fit.foretold:.2f}, spread {fit.spread:.2f}")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / TOKENIZER, out / TOKENIZER)
    worst = join(folder / ENCODER, fit.lengths, out / ENCODER)
    vectors = placed_by_encoder(out / ENCODER, studio, sight.captions(), config)
    described = json.loads((folder / DESCRIPTION).read_text()) | {
        "digest": OnnxEncoder(out / ENCODER).spec.digest,
        "parity_max_abs_difference": worst,
        "files": {name: file_facts(out / name) for name in (ENCODER, TOKENIZER)},
    }
    described.pop("int8", None)
    (out / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")
    about = Handover(
        facts["name"], facts["kind"], facts["config"], facts["subject"]["weights"], facts["subject"]["id"],
        facts["labels"]["digest"], facts["labels"]["queries"],
    )  # fmt: skip
    state = read_head(folder) if (folder / HEAD).is_file() else {}
    state |= {f"{_PREFIX}{name}": value for name, value in fit.lengths.state_dict().items()}
    kept = ("loss", "scales", "taught", "words", "vectors_made_by")
    told = {"power": power, "foretold": fit.foretold, "spread": fit.spread, "kernel": seeing.gradient}
    write_folder(
        out, about, subject.data.ids, vectors, state,
        {**{key: facts[key] for key in kept if key in facts}, "lengths": told, "encoder": described},
    )  # fmt: skip
    return fit.lengths


def join(encoder: Path, lengths: Lengths, out: Path) -> float:
    """Write an encoder whose embeddings go through `lengths`; returns the largest difference from torch.

    Raises `ExportError` if it is above the limit.
    """
    after = out.with_suffix(".lengths")
    dim = int(lengths.turn.shape[0])
    to_onnx(lengths, [torch.zeros(2, dim)], {_BARE: {0: "B"}}, (OUTPUT, ITEM), after)
    first, second = (
        onnx.load(encoder),
        onnx.compose.add_prefix(onnx.load(after), _PREFIX, rename_inputs=False, rename_outputs=False),
    )
    after.unlink()
    for node in first.graph.node:
        node.input[:] = [_BARE if name == OUTPUT else name for name in node.input]
        node.output[:] = [_BARE if name == OUTPUT else name for name in node.output]
    first.graph.output[0].name = _BARE
    joined = onnx.compose.merge_models(first, second, io_map=[(_BARE, _BARE)])
    joined.producer_name, joined.doc_string = first.producer_name, ""
    joined.graph.name = first.graph.name
    write_model(joined, out)
    return _difference(OnnxEncoder(encoder), OnnxEncoder(out), lengths)


@torch.no_grad()
def _difference(before: OnnxEncoder, after: OnnxEncoder, lengths: Lengths) -> float:
    size, rng = before.spec.image_size, np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, size, size, 3), np.uint8)
    feed = (pixels, np.zeros((8, 1), np.int64), np.zeros((8, 1), np.int64))
    wanted = lengths(torch.from_numpy(before.encode(*feed)))
    found = (after.encode(*feed), after.encode_items(*feed))
    worst = max(float(np.abs(one - two.numpy()).max()) for one, two in zip(found, wanted, strict=True))
    if worst > PARITY_LIMIT:
        raise ExportError(f"{ENCODER} differs from torch by {worst:.1e}; the limit is {PARITY_LIMIT:.0e}")
    return worst
