"""A tiny subject model on drawn shapes, trained once for all tests of the evaluation."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from attributary_train.corpus import Corpus
from attributary_train.evaluation.retrain import RetrainStore, full_run
from attributary_train.evaluation.retrain_todo import Todo
from attributary_train.evaluation.retrain_worker import Retraining
from attributary_train.jobs import attempt
from attributary_train.subject.autoencoder import train_autoencoder
from attributary_train.subject.checkpoint import load_subject, save_subject
from attributary_train.subject.data import SubjectData, load_data
from attributary_train.subject.model import SubjectModel, new_scheduler
from attributary_train.subject.pictures import squares
from attributary_train.subject.queries import Prompt, Queries, generate, load_queries, save_queries
from attributary_train.subject.recipe import Recipe, preset
from attributary_train.subject.train import train_unet
from tests.support.synthetic import synthetic_corpus

ITEMS = 48


@dataclass
class Tiny:
    """A trained subject, what it was trained on, and its queries."""

    root: Path
    corpus: Corpus
    recipe: Recipe
    data: SubjectData
    model: SubjectModel
    queries: Queries

    @property
    def subject(self) -> Path:
        return self.root / "subject"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def query_file(self) -> Path:
        return self.root / "queries.parquet"


@pytest.fixture(scope="session")
def subject(tmp_path_factory) -> Tiny:
    """48 drawings, 32 pixels, a U-Net of 30 steps, 3 test and 2 validation queries."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("subject")
    corpus = synthetic_corpus(root / "corpus", ITEMS)
    # Small even for tiny: hundreds of steps are trained here.
    recipe = replace(preset("tiny"), widths=(16, 16), attention=(False, True), steps=30, warmup=5)
    pictures = squares(corpus, recipe.image_size, root / "cache")
    autoencoder = train_autoencoder(recipe, pictures, root / "autoencoder", log=lambda line: None)
    data = load_data(corpus, [item.id for item in corpus], recipe, autoencoder, root / "cache")
    model = save_subject(
        root / "subject",
        train_unet(full_run(recipe, data, 0, 0), data),
        autoencoder,
        new_scheduler(recipe),
        recipe,
        data,
        {},
    )
    prompts = [
        Prompt(data.prompts[at * 9], "seen", "test" if at < 3 else "validation", at) for at in range(5)
    ]
    save_queries(generate(model, prompts, recipe.tokens, steps=5), root / "queries.parquet")
    queries = load_queries(root / "queries.parquet", model)
    return Tiny(root, corpus, recipe, data, load_subject(root / "subject"), queries)


def work_on(store, run, parent=None) -> Retraining:
    """What a worker is given to do, for one run."""
    return Retraining(store, Todo(store.data, [run], 500), parent=parent)


@pytest.fixture(scope="session")
def train_here():
    """Function: train runs in this process, as a worker would. Starting one takes seconds of imports."""

    def train(store, runs):
        for name in ("locks", "work"):
            (store.folder / name).mkdir(parents=True, exist_ok=True)
        for run in runs:
            assert attempt(work_on(store, run), store.digest(run))

    return train


@pytest.fixture
def store(subject, tmp_path) -> RetrainStore:
    """An empty store."""
    return RetrainStore(tmp_path / "store", subject.data)


@pytest.fixture
def brief(subject) -> Recipe:
    """A recipe of a few steps, for tests of how runs are kept rather than of what they learn."""
    return replace(subject.recipe, name="brief", steps=12)
