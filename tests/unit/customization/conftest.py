"""A tiny subject model on drawn shapes, and a data set made with it, once for all tests of customization."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from attributary_train.corpus import Corpus
from attributary_train.corpus.item import to_table
from attributary_train.customization.choose import Choice, Counts
from attributary_train.customization.gallery import embed_gallery, open_gallery
from attributary_train.customization.maker import Job, finish, prepare
from attributary_train.customization.maker_worker import Maker
from attributary_train.customization.plan import MakeSettings
from attributary_train.customization.spaces.pixels import Pixels
from attributary_train.customization.tuning import TuneSettings
from attributary_train.jobs import attempt
from attributary_train.subject.autoencoder import train_autoencoder
from attributary_train.subject.checkpoint import save_subject
from attributary_train.subject.data import load_data
from attributary_train.subject.model import new_scheduler
from attributary_train.subject.pictures import squares
from attributary_train.subject.recipe import preset
from attributary_train.subject.train import Run, train_unet
from tests.support.synthetic import synthetic_corpus

ITEMS, KNOWN = 80, 16
CHOICE = Choice(Counts(4, 2, 2, 2), Counts(2, 1, 1, 1), style_items=(2, 2), max_creator_share=1.0)
BRIEF = TuneSettings(steps=3, rows=2, prior_rows=2)
SETTINGS = MakeSettings(BRIEF, BRIEF, pictures=4, steps=3, prior_items=6)


@dataclass
class Toy:
    """Where things lie."""

    root: Path
    corpus: Corpus
    known: list[int]
    choice: Choice = CHOICE
    settings: MakeSettings = SETTINGS

    @property
    def subject(self) -> Path:
        return self.root / "subject"

    def job(self, folder: Path) -> Job:
        return Job(folder, self.subject, self.corpus.root, None, CHOICE)


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Toy:
    """80 drawings of 20 concepts by 4 creators, no near duplicates among them; a model that saw 16."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("customization")
    corpus = synthetic_corpus(root / "corpus", ITEMS)
    items = [dataclasses.replace(item, near_dup_group=row) for row, item in enumerate(corpus)]
    pq.write_table(to_table(items), corpus.root / "items.parquet")
    corpus = Corpus.open(corpus.root)
    small = preset("tiny")
    recipe = dataclasses.replace(
        small,
        widths=(16, 16),
        attention=(False, True),
        steps=10,
        warmup=2,
        autoencoder=dataclasses.replace(small.autoencoder, steps=10),
    )
    pictures = squares(corpus, recipe.image_size, root / "cache")
    autoencoder = train_autoencoder(recipe, pictures, root / "autoencoder", log=lambda line: None)
    known = [item.id for item in items[:KNOWN]]
    data = load_data(corpus, known, recipe, autoencoder, root / "cache")
    unet = train_unet(Run(recipe, np.ones(KNOWN, bool), 0, 0), data)
    save_subject(root / "subject", unet, autoencoder, new_scheduler(recipe), recipe, data, {})
    return Toy(root, corpus, known)


@pytest.fixture(scope="session")
def make_here():
    """Function: make a data set in this process, as a worker would. Starting one takes seconds of imports."""

    def make(job: Job) -> Path:
        plan = prepare(job, SETTINGS, lambda line: None)
        maker = Maker(job.folder)
        for entry in plan.planned:
            assert attempt(maker, entry.name)
        finish(job.folder, plan, lambda line: None)
        return job.folder

    return make


@pytest.fixture(scope="session")
def made(toy, make_here, tmp_path_factory) -> Path:
    """A finished data set; never changed in place."""
    return make_here(toy.job(tmp_path_factory.mktemp("made") / "data"))


@pytest.fixture(scope="session")
def made_gallery(made):
    """The data set beside 30 distractors, in pixels."""
    gallery = open_gallery(made, 30)
    return gallery, embed_gallery(gallery, Pixels(), None)
