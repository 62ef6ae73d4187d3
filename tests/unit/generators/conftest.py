"""Tiny pipelines of every family with random weights, adopted with six drawings."""

from types import SimpleNamespace

import pytest
import torch
from diffusers.utils import logging as diffusers_logging

from attributary_train.generators.families import BY_NAME
from attributary_train.generators.tiny import tiny_pipeline
from attributary_train.subject.adopt import adopt
from attributary_train.subject.checkpoint import training_data
from tests.support.synthetic import synthetic_corpus

ITEMS, SIZE = 6, 16
# What a family takes at least.
SIZES = {"sana": 32}


@pytest.fixture(scope="session")
def drawings(tmp_path_factory):
    torch.set_num_threads(1)
    diffusers_logging.disable_progress_bar()
    return synthetic_corpus(tmp_path_factory.mktemp("families") / "corpus", ITEMS)


def adopted_from(family, corpus, root, prediction="epsilon"):
    size = SIZES.get(family, SIZE)
    pipeline = tiny_pipeline(
        family, image_size=size, words=[item.caption for item in corpus], prediction=prediction
    )
    pipeline.save_pretrained(root / "checkpoint")
    folder = root / "subject"
    model = adopt(
        root / "checkpoint", corpus, folder, cache=root / "cache", image_size=size, log=lambda line: None
    )
    data = training_data(model, folder, corpus, root / "cache")
    return SimpleNamespace(
        name=family, pipeline=pipeline, model=model, data=data, folder=folder, root=root, corpus=corpus
    )


@pytest.fixture(scope="session", params=sorted(set(BY_NAME) - {"stable-diffusion"}))
def adopted(request, drawings, tmp_path_factory):
    return adopted_from(request.param, drawings, tmp_path_factory.mktemp(request.param))
