"""A subject model of some thousand weights with drawn data: nothing to train, nothing to fetch."""

import numpy as np
import pytest
import torch

from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, new_scheduler, new_unet
from attributary_train.subject.queries import Queries
from attributary_train.subject.recipe import Recipe

RECIPE = Recipe(
    name="toy",
    image_size=32,
    latent_size=4,
    latent_channels=4,
    widths=(8, 16),
    attention=(True, True),
    heads=2,
    text_dim=6,
    tokens=5,
    timesteps=100,
)
ITEMS, QUERIES = 18, 4


def new_model(seed):
    torch.manual_seed(seed)
    unet = new_unet(RECIPE).eval().requires_grad_(False)
    return SubjectModel(unet, new_scheduler(RECIPE), f"weights-{seed}", {})


@pytest.fixture(scope="session")
def model():
    return new_model(0)


@pytest.fixture(scope="session")
def another_model():
    return new_model(1)


@pytest.fixture(scope="session")
def data():
    stream = torch.Generator().manual_seed(2)
    return SubjectData(
        np.arange(100, 100 + ITEMS, dtype=np.int64),
        tuple(f"item {row}" for row in range(ITEMS)),
        torch.randn((ITEMS, 4, 4, 4), generator=stream),
        torch.randn((ITEMS, 5, 6), generator=stream),
        torch.randn((5, 6), generator=stream),
        "toy",
    )


@pytest.fixture(scope="session")
def queries(model):
    stream = torch.Generator().manual_seed(3)
    return Queries(
        tuple(f"validation-{row:04d}" for row in range(QUERIES)),
        ("validation",) * QUERIES,
        ("seen",) * QUERIES,
        tuple(f"query {row}" for row in range(QUERIES)),
        tuple(range(QUERIES)),
        torch.randn((QUERIES, 4, 4, 4), generator=stream),
        torch.randn((QUERIES, 5, 6), generator=stream),
        model.weights,
        5,
        3.0,
    )
