"""What was learnt beside the kernel of gradients: unit rows, lengths, the same for additions, in torch and exported."""

import numpy as np
import pytest
import torch

from attributary.encoder import OnnxEncoder
from attributary.encoder.onnx import ITEM, OUTPUT
from attributary_train.errors import StudentError
from attributary_train.student.export import Samples, export_encoder
from attributary_train.student.generator_head import GeneratorHead
from attributary_train.student.generator_tower import GeneratorStudent, GeneratorTower
from attributary_train.student.gradient_head import (
    LONGEST,
    GradientSettings,
    GradientStudent,
    fit_gradient,
    kernel_directions,
    parts_of,
)
from attributary_train.student.gradient_tower import GradientTower
from tests.unit.student.test_generator import (  # noqa: F401
    RECIPE,
    SMALL,
    TinyWords,
    autoencoder,
    new_model,
    pictures,
    seen,
)

DIM, WIDTH, ITEMS = 12, 30, 200


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def learnt():
    return unit(torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(0)) + 0.5)


@pytest.fixture(scope="module")
def gradients():
    """Most of the variance in a few directions, some items far louder than others."""
    rng = torch.Generator().manual_seed(1)
    rows = torch.randn(ITEMS, WIDTH, generator=rng) * torch.linspace(3, 0.1, WIDTH)
    return rows * torch.randn(ITEMS, 1, generator=rng).exp()


def both(head, embeddings, gradients):
    with torch.no_grad():
        return head(embeddings, gradients)


def test_directions_are_traks_kernel(gradients):
    rows = gradients.double()
    ridge = 0.1 * torch.linalg.svdvals(rows).square().mean()
    kernel = rows @ torch.linalg.inv(rows.T @ rows + ridge * torch.eye(WIDTH)) @ rows.T
    found = (gradients @ kernel_directions(gradients)).double()
    told = found @ found.T
    torch.testing.assert_close(told / told.trace(), kernel / kernel.trace(), rtol=1e-3, atol=1e-6)
    with pytest.raises(StudentError, match="gradients"):
        kernel_directions(torch.zeros(5, 3))


def test_queries_and_items_are_unit_rows_and_an_item_speaks_as_loud_as_it_is_long(learnt, gradients):
    head = fit_gradient(learnt, gradients, GradientSettings(power=1.0, apart=0.0))
    query, item = both(head, learnt, gradients)
    for rows in (query, item):
        assert rows.shape == learnt.shape
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(ITEMS))
    assert (query[:, -1] == 0).all()
    assert (item[:, -1] > 0).all()
    apart = item[:, :-1].norm(dim=1)
    assert float(apart.max()) == pytest.approx(LONGEST, abs=1e-4)
    long = (gradients @ head.matrix).norm(dim=1)
    assert np.corrcoef(apart.log(), long.log())[0, 1] > 0.9


def test_with_room_for_all_scores_are_those_of_both_parts_side_by_side(learnt, gradients):
    few = gradients[:, :2]
    narrow = torch.cat([learnt[:, :3], torch.zeros(ITEMS, DIM - 3)], dim=1)
    settings = GradientSettings(weight=0.7, apart=1.0, power=0.5)
    head = fit_gradient(unit(narrow), few, settings)
    query, item = both(head, unit(narrow), few)
    matrix = kernel_directions(few)
    long = (few @ matrix).norm(dim=1)
    direction, rows = unit(few @ matrix).double(), unit(narrow).double()
    parts = [rows @ (rows - rows.mean(0)).T, direction @ direction.T]
    off = ~torch.eye(ITEMS, dtype=torch.bool)
    parts = [part * long.double() ** 0.5 for part in parts]
    wanted = sum(
        part / part[off].std() * weight for part, weight in zip(parts, (1.0, settings.weight), strict=True)
    )
    found = (query @ item.T).double()
    # A query's own length is no matter: rows agree up to a factor.
    cosine = torch.nn.functional.cosine_similarity(found, wanted, dim=1)
    assert float(cosine.min()) > 0.9999


def test_without_weight_or_power_all_that_is_taken_away_is_the_mean(learnt, gradients):
    rows = unit(torch.cat([learnt[:, :3], torch.zeros(ITEMS, DIM - 3)], dim=1))
    head = fit_gradient(rows, gradients, GradientSettings(weight=0.0, apart=1.0, power=0.0))
    query, item = both(head, rows, gradients)
    wanted = rows @ (rows - rows.mean(0)).T
    assert float(torch.nn.functional.cosine_similarity(query @ item.T, wanted, dim=1).min()) > 0.9999


def test_an_addition_is_never_longer_than_the_longest(learnt, gradients):
    head = fit_gradient(learnt, gradients, GradientSettings(power=2.0))
    extreme = 1e3 * torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(3))
    item = both(head, learnt[:50], extreme)[1]
    assert float(item[:, :-1].norm(dim=1).max()) <= LONGEST + 1e-5
    silent = both(head, learnt[:2], torch.zeros(2, WIDTH))
    assert all(torch.isfinite(part).all() for part in silent)


@pytest.mark.parametrize("setting", ["weight", "apart", "power"])
@pytest.mark.parametrize("value", [-0.1, 101.0, float("nan")])
def test_a_setting_out_of_range_is_refused(setting, value):
    with pytest.raises(StudentError, match=setting):
        GradientSettings(**{setting: value})


def test_rows_that_do_not_belong_together_or_are_all_alike_are_refused(learnt, gradients):
    with pytest.raises(StudentError, match="rows"):
        fit_gradient(learnt[:-1], gradients, GradientSettings())
    with pytest.raises(StudentError, match="alike"):
        fit_gradient(
            learnt[:1].expand(ITEMS, -1), gradients[:1].expand(ITEMS, -1), GradientSettings(apart=1.0)
        )


@pytest.fixture(scope="module")
def student(autoencoder):  # noqa: F811
    empty = torch.randn(RECIPE.tokens, RECIPE.text_dim, generator=torch.Generator().manual_seed(1))
    tower = GeneratorTower(new_model(0), autoencoder, empty, (10, 30)).eval()
    learnt = GeneratorStudent(
        "tiny", tower, TinyWords(), GeneratorHead(SMALL, seen(tower, 12, 1), empty), SMALL.dim
    )
    gradient = GradientTower(new_model(0), 3, RECIPE.tokens).eval()
    shown, ids = torch.from_numpy(pictures(24, 6)), torch.randint(1, 20, (24, RECIPE.tokens))
    with torch.no_grad():
        told = parts_of(learnt.eval(), gradient, shown, ids, torch.ones_like(ids))
    return GradientStudent(
        learnt, gradient, fit_gradient(told[0].clone(), told[1].clone(), GradientSettings())
    ).eval()


def test_a_prompt_reaches_the_gradient_and_without_one_the_empty_prompt_is_asked(student):
    ids = torch.randint(1, 20, (3, RECIPE.tokens), generator=torch.Generator().manual_seed(5))
    shown, none = torch.from_numpy(pictures(3, 8)), torch.zeros_like(ids)
    with torch.no_grad():
        query, item = student(shown, ids, torch.ones_like(ids))
        bare = student(shown, ids, none)
        again = student(shown, none, none)
        latents = student.student.tower.latents(shown)
        empty = student.student.tower.empty.expand(3, -1, -1)
        under = parts_of(student.student, student.gradient, shown, ids, none)[1]
        torch.testing.assert_close(under, student.gradient(latents, empty))
    assert not torch.allclose(query, bare[0], atol=1e-3)
    assert not torch.allclose(item, bare[1], atol=1e-3)
    torch.testing.assert_close(bare[0], again[0])


@pytest.mark.slow  # the exporter takes half a minute
def test_the_exported_encoder_says_what_torch_says_of_queries_and_of_items(
    student, tiny_encoder_dir, tmp_path
):
    stream = np.random.default_rng(0)
    ids = stream.integers(1, 20, (16, RECIPE.tokens))
    samples = Samples(pictures(16), ids, np.ones_like(ids))
    facts = export_encoder(
        tmp_path, student, tiny_encoder_dir / "tokenizer.json", samples, int8=False, outputs=(OUTPUT, ITEM)
    )
    assert facts["parity_max_abs_difference"] < 1e-4
    assert OnnxEncoder(tmp_path / "encoder.onnx").spec.lengths


def test_an_encoder_without_lengths_places_items_where_queries_are(tiny_encoder_dir):
    encoder = OnnxEncoder(tiny_encoder_dir / "encoder.onnx")
    size = encoder.spec.image_size
    feed = (np.full((2, size, size, 3), 99, np.uint8), np.ones((2, 1), np.int64), np.ones((2, 1), np.int64))
    assert np.array_equal(encoder.encode_items(*feed), encoder.encode(*feed))
