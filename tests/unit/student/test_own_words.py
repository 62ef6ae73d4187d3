"""A text tower of the student's own: it learns the packaged one's states, and the embeddings stay where they were."""

from dataclasses import replace

import pytest
import torch

from attributary_train.errors import StudentError
from attributary_train.generators.latents import encode
from attributary_train.student.generator_head import GeneratorHead
from attributary_train.student.generator_tower import GeneratorStudent
from attributary_train.student.own_words import Texts, WordsSettings, learn_words
from tests.unit.student.test_generator import (  # noqa: F401
    RECIPE,
    SMALL,
    TinyWords,
    autoencoder,
    pictures,
    seen,
    tower,
)

VOCABULARY = 20
SETTINGS = WordsSettings(epochs=60, steps=30, batch=32, pictures=8)


@pytest.fixture
def student(tower):  # noqa: F811
    torch.manual_seed(0)
    head = GeneratorHead(SMALL, seen(tower, 12, 1), tower.empty)
    return GeneratorStudent("tiny", tower, TinyWords(), head, SMALL.dim).eval()


def told(student, count, seed):
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (count, RECIPE.tokens), generator=rng)
    mask = (torch.arange(RECIPE.tokens) < torch.randint(1, RECIPE.tokens, (count, 1), generator=rng)).long()
    with torch.no_grad():
        return Texts(ids * mask, mask, student.text_tower.states(ids * mask, mask))


def test_embeddings_stay_where_they_were_with_a_prompt_and_without(student, autoencoder):  # noqa: F811
    shown = torch.from_numpy(pictures(24, 5))
    latents = encode(autoencoder, pictures(24, 5))
    texts, asked = told(student, 300, 1), told(student, 24, 2)
    words = learn_words(student, texts, asked, latents, VOCABULARY, SETTINGS)
    own = GeneratorStudent("own", student.tower, words, student.head, student.dim).eval()
    new = told(student, 24, 3)
    with torch.no_grad():
        for some in (asked, new):
            cosine = (student(shown, some.ids, some.mask) * own(shown, some.ids, some.mask)).sum(1)
            assert cosine.mean() > 0.95
        none = torch.zeros_like(asked.mask)
        assert torch.allclose(student(shown, asked.ids, none), own(shown, asked.ids, none), atol=1e-6)


def test_one_seed_gives_one_tower(student, autoencoder):  # noqa: F811
    latents = encode(autoencoder, pictures(8, 5))
    texts, asked = told(student, 40, 1), told(student, 8, 2)
    short = replace(SETTINGS, epochs=2, steps=2)
    first, second = (
        learn_words(student, texts, asked, latents, VOCABULARY, short).state_dict() for _ in range(2)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_states_that_are_not_finite_are_refused(student, autoencoder):  # noqa: F811
    texts, asked = told(student, 40, 1), told(student, 8, 2)
    broken = replace(texts, states=texts.states * float("nan"))
    with pytest.raises(StudentError, match="loss: is not finite"):
        learn_words(student, broken, asked, encode(autoencoder, pictures(8, 5)), VOCABULARY, SETTINGS)
