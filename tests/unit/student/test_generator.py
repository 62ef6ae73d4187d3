"""A student on the generator's own features: the tower is the U-Net's middle block, the export computes the same, an
item finds itself, and score files of another model are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from attributary_train.errors import EvaluationError, StudentError
from attributary_train.evaluation.scores import ScoreFile, save_scores
from attributary_train.generators.latents import encode
from attributary_train.student import generator_fitting
from attributary_train.student.config import GENERATOR_CONFIGS, StudentConfig
from attributary_train.student.export import Samples, export_encoder
from attributary_train.student.generator_fitting import Lesson, Retrained, fit_generator
from attributary_train.student.generator_head import GeneratorHead
from attributary_train.student.generator_tower import TIMESTEPS, GeneratorStudent, GeneratorTower
from attributary_train.student.item_queries import asked_items, cut_own, item_names
from attributary_train.student.labelled import from_score_files
from attributary_train.student.sight import Seen
from attributary_train.subject.autoencoder import new_autoencoder
from attributary_train.subject.noise import noise_for, noise_key
from attributary_train.teacher.query_digest import query_digests
from tests.unit.teacher.rivals.conftest import (  # noqa: F401
    RECIPE,
    data,
    model,
    new_model,
    queries,
)

SMALL = replace(
    GENERATOR_CONFIGS["generator"], dim=16, hidden=24, epochs=200, dropout=0.0, learning_rate=5e-3
)


class TinyWords(torch.nn.Module):
    """Token states that also depend on how many places there are, as MiniLM's on what it is filled up with."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(20, RECIPE.text_dim)

    def states(self, ids, mask):
        return self.words(ids) + 0.1 * self.words(ids * mask).mean(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(4)
    return new_autoencoder(
        replace(RECIPE, autoencoder=replace(RECIPE.autoencoder, widths=(8, 8, 8, 8), latent_channels=4))
    ).eval()


@pytest.fixture(scope="module")
def tower(autoencoder):
    shown = new_model(0)
    return GeneratorTower(shown, autoencoder, torch.randn(RECIPE.tokens, RECIPE.text_dim), (10, 30)).eval()


def pictures(count, seed=0):
    side = RECIPE.image_size
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def seen(tower, count, seed):
    told = torch.randn(count, RECIPE.tokens, RECIPE.text_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        image = tower(torch.from_numpy(pictures(count, seed)), told)
    return Seen(image, told, torch.ones(count, RECIPE.tokens))


def test_the_towers_features_are_those_of_the_whole_unets_middle_block(tower, autoencoder):
    shown, told = new_model(0), torch.randn(3, RECIPE.tokens, RECIPE.text_dim)
    latents = encode(autoencoder, pictures(3))
    kept = []
    handle = shown.unet.mid_block.register_forward_hook(
        lambda module, given, out: kept.append(out.flatten(1))
    )
    with torch.no_grad():
        for states in (tower.empty.expand(3, -1, -1), told):
            for step in (10, 30):
                noise = torch.from_numpy(noise_for(noise_key(0, "middle block"), step, latents.shape[1:]))
                shown.predict(latents, noise.expand_as(latents), torch.full((3,), step), states)
        found = tower(torch.from_numpy(pictures(3)), told)
    handle.remove()
    assert torch.allclose(found, torch.cat(kept, 1), atol=1e-4)


def test_a_timestep_that_the_schedule_lacks_is_refused(autoencoder):
    with pytest.raises(StudentError, match="timesteps"):
        GeneratorTower(new_model(0), autoencoder, torch.zeros(5, 6), TIMESTEPS)


def test_every_item_finds_itself_first_with_a_prompt_and_without(tower):
    views = [seen(tower, 12, 1)]
    between = cut_own(torch.randn(12, 12, generator=torch.Generator().manual_seed(7)), np.arange(12)).numpy()
    asked = seen(tower, 6, 2)
    lists = np.random.default_rng(3).normal(size=(6, 12)).astype(np.float32)
    lessons = [Lesson(asked, lists), Lesson(views[0], between)]
    kept = np.random.default_rng(4).random((8, 12)) < 0.5
    told = Retrained(asked, np.random.default_rng(5).normal(size=(6, 8)), kept)
    fitted = fit_generator(SMALL, views, tower.empty, lessons, told)
    for view in (views[0], views[0].without_prompt()):
        assert fitted.scores(view).argmax(axis=1).tolist() == list(range(12))


def test_of_many_items_a_step_sees_the_best_and_others_for_the_rest(tower, monkeypatch):
    views, rng = [seen(tower, 12, 1)], np.random.default_rng(3)
    told = Retrained(seen(tower, 6, 2), rng.normal(size=(6, 8)), rng.random((8, 12)) < 0.5)
    between = cut_own(torch.randn(12, 12, generator=torch.Generator().manual_seed(7)), np.arange(12)).numpy()
    monkeypatch.setattr(generator_fitting, "STEP_ITEMS", 8)
    monkeypatch.setattr(generator_fitting, "BEST", 1)
    fit = generator_fitting._Fit(SMALL, views, tower.empty, [Lesson(views[0], between)], told, None)
    some, weight = fit._some(torch.tensor([2, 3]))
    assert len(set(some.tolist())) == len(some) == 8 and set(some[:2].tolist()) == {2, 3}
    assert weight[:2].tolist() == [1.0, 1.0] and weight.sum() == pytest.approx(12.0)
    fitted = fit_generator(SMALL, views, tower.empty, [Lesson(views[0], between)], told)
    assert fitted.items.shape == (12, SMALL.dim)
    assert np.mean(fitted.scores(views[0]).argmax(axis=1) == np.arange(12)) > 0.8


def test_without_epochs_features_are_compared_as_they_are(tower):
    views = [seen(tower, 12, 1)]
    lists = np.random.default_rng(3).normal(size=(12, 12)).astype(np.float32)
    config = replace(GENERATOR_CONFIGS["generator-untrained"], dim=64)
    fitted = fit_generator(config, views, tower.empty, [Lesson(views[0], lists)])
    reduced = fitted.query.reduce(views[0].image, views[0].states, views[0].mask)
    far = torch.nn.functional.normalize(reduced - reduced.mean(dim=1, keepdim=True), dim=1)
    expected = far @ far.T
    torch.testing.assert_close(torch.from_numpy(fitted.scores(views[0])), expected, atol=5e-3, rtol=0)


@pytest.mark.slow  # the exporter takes half a minute
def test_onnx_computes_what_torch_does(tower, tmp_path):
    head = GeneratorHead(SMALL, seen(tower, 12, 1), tower.empty)
    student = GeneratorStudent("tiny", tower, TinyWords(), head, SMALL.dim).eval()
    tokenizer = tmp_path / "words.json"
    tokenizer.write_text("{}")
    rng = np.random.default_rng(6)
    ids, mask = rng.integers(1, 20, (16, 4)), np.tril(np.ones((16, 4), np.int64), 2)
    # Raises if ONNX and torch differ by more than 1e-4, with prompts of any length and none.
    exported = export_encoder(
        tmp_path / "out", student, tokenizer, Samples(pictures(16), ids, mask), int8=False
    )
    assert exported["parity_max_abs_difference"] < 1e-4


def test_an_items_own_score_is_first_but_no_more_than_it_must_be():
    kernel = torch.tensor([[9.0, 2.0, 1.0], [0.0, -5.0, -1.0], [-4.0, -2.0, 7.0]])
    found = cut_own(kernel, np.arange(3))
    assert found.diagonal().tolist() == [3.0, 0.0, -1.0]
    assert found[0].tolist() == [3.0, 2.0, 1.0]
    with pytest.raises(StudentError, match="there is one"):
        cut_own(torch.ones(1, 1), np.arange(1))
    assert cut_own(kernel[2:], np.array([2])).tolist() == [found[2].tolist()]


def test_of_many_items_some_are_asked_about():
    assert asked_items(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert asked_items(10_000, 3).tolist() == [0, 5000, 9999]
    with pytest.raises(StudentError, match="at least 1"):
        asked_items(5, 0)


def test_lists_of_other_items_and_of_no_query_are_refused(tower):
    views = [seen(tower, 12, 1)]
    with pytest.raises(StudentError, match="labels: there are none"):
        fit_generator(SMALL, views, tower.empty, [])
    with pytest.raises(StudentError, match=r"labels: \(12, 11\) of 12 queries, 12 items"):
        fit_generator(SMALL, views, tower.empty, [Lesson(views[0], np.zeros((12, 11), np.float32))])
    with pytest.raises(StudentError, match="one member"):
        fit_generator(replace(SMALL, members=2), views, tower.empty, [])


def test_score_files_of_another_model_set_or_split_are_refused(data, model, queries, tmp_path):  # noqa: F811
    scores = np.random.default_rng(0).normal(size=(len(queries), len(data))).astype(np.float32)
    train = replace(queries, splits=("train",) * len(queries))
    file = ScoreFile("m", scores, queries.names, data.ids, model.weights, {}, query_digests(queries))
    path = tmp_path / "a.npz"
    save_scores(file, path)
    found = from_score_files([path, path], data, model.weights, train)
    assert len(found) == 2 * len(queries) and found.everything
    assert np.array_equal(found.scores[len(queries) :], scores)
    with pytest.raises(EvaluationError, match="scores of model weights-0"):
        from_score_files([path], data, "another" * 5, train)
    with pytest.raises(StudentError, match="are no training queries"):
        from_score_files([path], data, model.weights, queries)
    with pytest.raises(EvaluationError, match="other ones"):
        from_score_files([path], data, model.weights, replace(train, seeds=tuple(9 for _ in queries.seeds)))
    save_scores(replace(file, ids=data.ids + 1), path)
    with pytest.raises(EvaluationError, match="ids"):
        from_score_files([path], data, model.weights, train)


def test_names_of_items_and_settings(data):  # noqa: F811
    assert item_names(data.ids)[:2] == ("item-100", "item-101")
    with pytest.raises(StudentError, match="retrained"):
        StudentConfig("x", retrained=-1.0)
    for config in GENERATOR_CONFIGS.values():
        assert StudentConfig.from_json(config.to_json()) == config
