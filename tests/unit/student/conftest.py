"""Features, labels and vocabulary that are made up: small enough to train on in a second."""

import numpy as np
import pytest
import torch

from attributary_train.student.labelled import Labelled
from attributary_train.student.sight import Seen


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that spin cost more than they give where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ITEMS, TOKENS, STATES, IMAGE = 40, 5, 12, 20


def seen(rows: int, seed: int, words: torch.Tensor) -> Seen:
    """Prompts of a few words each, and pictures that say little."""
    rng = torch.Generator().manual_seed(seed)
    picks = torch.randint(0, len(words), (rows, TOKENS), generator=rng)
    lengths = torch.randint(2, TOKENS + 1, (rows, 1), generator=rng)
    mask = (torch.arange(TOKENS) < lengths).float()
    image = torch.randn(rows, IMAGE, generator=rng)
    return Seen(image, words[picks], mask)


@pytest.fixture(scope="session")
def words():
    return torch.randn(16, STATES, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def items(words):
    return seen(ITEMS, 2, words)


@pytest.fixture(scope="session")
def queries(words):
    return seen(60, 3, words)


def labels_for(queries: Seen, items: Seen, nearest: int = 12, outside: int = 8) -> Labelled:
    """Labels of a teacher that counts shared words: most alike first, then random others."""

    def bags(side):
        return (side.states * side.mask[:, :, None]).sum(1)

    truth = (bags(queries) @ bags(items).T).numpy()
    rng = np.random.default_rng(0)
    rows = []
    for line in truth:
        order = np.argsort(-line)
        rows.append(np.concatenate([order[:nearest], rng.permutation(order[nearest:])[:outside]]))
    chosen = np.stack(rows)
    scores = np.take_along_axis(truth, chosen, 1).astype(np.float32)
    names = tuple(f"train-{at:04d}" for at in range(len(truth)))
    return Labelled(names, chosen, scores, nearest, len(items), "d" * 64)


@pytest.fixture(scope="session")
def labels(queries, items):
    return labels_for(queries, items)
