"""Retrieval as published, and maps learned on made-up features whose answer is known."""

import dataclasses

import numpy as np
import pytest
import torch

from attributary_train.customization.check import check
from attributary_train.customization.exemplars import Exemplar
from attributary_train.customization.gallery import Embedded, Gallery
from attributary_train.customization.learning import Learned, learn, map_identity
from attributary_train.customization.maps import MapSettings, Reduction, contrastive, new_map
from attributary_train.customization.measures import per_exemplar, ranks_of, retrieve
from attributary_train.customization.spaces.pixels import Pixels
from attributary_train.errors import CustomizationError
from attributary_train.evaluation.ranking import average_precision_rows

DIM, SIGNAL, PICTURES, DISTRACTORS = 24, 12, 3, 150
SETTINGS = MapSettings(steps=60, batch=64, learning_rate=5e-3, orthogonality=0.1, look_every=20)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    """Features whose first half says what was drawn and whose second half is noise; 2-item styles among objects."""
    rng = np.random.default_rng(0)
    splits = (
        [("train", True)] * 60 + [("validation", False)] * 14 + [("test", True)] * 8 + [("test", False)] * 8
    )
    exemplars, sizes = [], []
    for at, (split, seen) in enumerate(splits):
        kind = "style" if at % 3 == 0 else "object"
        sizes.append(2 if kind == "style" else 1)
        start = sum(sizes[:-1])
        exemplars.append(
            Exemplar(f"e{at}", kind, split, seen, tuple(range(start, start + sizes[-1])), f"maker {at}")
        )
    rows = tuple(np.array(exemplar.ids) for exemplar in exemplars)
    own = sum(sizes)
    items = rng.standard_normal((own + DISTRACTORS, DIM))
    items[:, SIGNAL:] *= 2.0
    whose = np.repeat(np.arange(len(exemplars)), PICTURES)
    queries = rng.standard_normal((len(whose), DIM)) * np.repeat([0.5, 2.0], SIGNAL)
    for query, exemplar in enumerate(whose):
        queries[query, :SIGNAL] += items[rows[exemplar], :SIGNAL].mean(axis=0)
    blank = np.zeros((len(whose), 8, 8, 3), np.uint8)
    gallery = Gallery(
        "digest",
        tuple(exemplars),
        blank,
        blank,
        ("",) * len(whose),
        whose,
        np.arange(len(items)),
        np.zeros((len(items), 8, 8, 3), np.uint8),
        ("",) * len(items),
        tuple(f"maker {row % 5}" for row in range(len(items))),
        ("MIT",) * len(items),
        rows,
        np.arange(own, len(items)),
    )
    return gallery, Embedded(unit(queries), unit(items))


def test_ranks_and_precision_by_hand():
    own, rivals = np.array([0.9, 0.5], np.float32), np.array([0.95, 0.7, 0.5, 0.1], np.float32)
    # 0.95, [0.9], 0.7, 0.5 (rival, equal, counts as better), [0.5], 0.1
    assert ranks_of(own, rivals).tolist() == [2, 5]
    assert ranks_of(np.array([0.0], np.float32), np.zeros(7, np.float32)).tolist() == [8]
    assert per_exemplar([1.0, 0.0, 4.0], np.array([3, 3, 8])).tolist() == [0.5, 4.0]


def test_retrieval_against_the_textbook(world):
    gallery, embedded = world
    rows = gallery.rows("test")
    found = retrieve(gallery, embedded, rows, depths=(5, 10))
    for at, row in enumerate(rows):
        exemplar = int(gallery.whose[row])
        own = gallery.exemplar_rows[exemplar]
        pool = np.concatenate([own, gallery.distractor_rows[gallery.rivals(exemplar)]])
        scores = embedded.items[pool] @ embedded.queries[row]
        truth = (np.arange(len(pool)) < len(own)).astype(float)[None]
        assert found.precision[at] == pytest.approx(average_precision_rows(truth, scores[None], len(own))[0])
        first = np.argsort(-scores)[:5]
        assert found.recall[5][at] == np.mean(np.isin(np.arange(len(own)), first))
    assert found.figures()["mAP"].shape == (16,)
    with pytest.raises(CustomizationError, match="none of this split"):
        retrieve(gallery, embedded, rows[:0])


def test_a_styles_rivals_are_by_other_hands(world):
    gallery, _ = world
    exemplar = next(at for at, e in enumerate(gallery.exemplars) if e.kind == "style" and at < 5)
    kept = gallery.distractor_rows[gallery.rivals(exemplar)]
    assert not any(gallery.creators[row] == f"maker {exemplar}" for row in kept)
    assert len(kept) == DISTRACTORS * 4 // 5


@pytest.mark.parametrize("kind", ["shared", "mlp", "two"])
def test_a_map_learns_what_counts_and_finds_unseen_exemplars(world, kind):
    gallery, embedded = world
    learned = learn(gallery, embedded, Pixels(), "joint", dataclasses.replace(SETTINGS, kind=kind))
    rows = gallery.rows("test", seen=False)
    before = retrieve(gallery, embedded, rows).figures()["mAP"].mean()
    after = retrieve(gallery, learned.apply(embedded), rows).figures()["mAP"].mean()
    assert after > 1.5 * before
    assert learned.facts["step"] > 0
    same = np.allclose(learned.queries(embedded.items[:5]), learned.items(embedded.items[:5]))
    assert same == (kind != "two")


def test_maps_start_as_the_identity(world):
    _, embedded = world
    rows = torch.from_numpy(embedded.queries[:4])
    for kind in ("shared", "mlp", "two"):
        made = new_map(MapSettings(kind), DIM)
        assert torch.allclose(made.generated(rows), rows, atol=1e-6)
        assert torch.allclose(made.items(rows), rows, atol=1e-6)
        assert made.penalty().item() == pytest.approx(0, abs=1e-9)


def test_the_penalty_keeps_a_map_near_a_rotation(world):
    gallery, embedded = world

    def penalty(weight):
        settings = dataclasses.replace(SETTINGS, orthogonality=weight)
        return float(learn(gallery, embedded, Pixels(), "joint", settings).map.penalty().detach())

    assert penalty(30.0) < 0.1 * penalty(0.01)


def test_only_its_own_family_teaches_a_map(world):
    gallery, embedded = world
    learned = learn(gallery, embedded, Pixels(), "style", SETTINGS)
    assert learned.facts["pairs"] == len(gallery.rows("train", "style"))
    again = dataclasses.replace(gallery, exemplars=tuple(e for e in gallery.exemplars))
    assert learn(again, embedded, Pixels(), "style", SETTINGS).facts == learned.facts
    with pytest.raises(CustomizationError, match="family: 'mood'"):
        learn(gallery, embedded, Pixels(), "mood")
    alone = dataclasses.replace(
        gallery, exemplars=tuple(dataclasses.replace(e, split="train") for e in gallery.exemplars)
    )
    with pytest.raises(CustomizationError, match="in training and in validation"):
        learn(alone, embedded, Pixels())


def test_test_exemplars_teach_nothing(world):
    gallery, embedded = world
    changed = Embedded(embedded.queries.copy(), embedded.items.copy())
    for row in gallery.rows("test"):
        changed.queries[row] = changed.queries[0]
        changed.items[gallery.exemplar_rows[gallery.whose[row]]] = changed.items[-1]
    first, second = (learn(gallery, one, Pixels(), "joint", SETTINGS) for one in (embedded, changed))
    assert all(
        torch.equal(a, b) for a, b in zip(first.map.parameters(), second.map.parameters(), strict=True)
    )


def test_pairs_of_one_exemplar_are_no_negatives():
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), dim=1)
    scale = torch.tensor(3.0)
    apart = contrastive(rows, rows, np.array([0, 1, 2]), scale)
    together = contrastive(rows, rows, np.array([0, 0, 2]), scale)
    assert float(together) < 0.01 < float(apart)


def test_a_map_on_disk(world, tmp_path):
    gallery, embedded = world
    learned = learn(gallery, embedded, Pixels(), "joint", SETTINGS)
    learned.write(tmp_path / "map.safetensors")
    again = Learned.read(tmp_path / "map.safetensors", map_identity(gallery, Pixels()))
    assert np.array_equal(again.apply(embedded).queries, learned.apply(embedded).queries)
    assert again.facts == learned.facts and again.settings == learned.settings
    with pytest.raises(CustomizationError, match="belongs to features"):
        Learned.read(tmp_path / "map.safetensors", "other")
    (tmp_path / "map.safetensors").write_bytes(b"no")
    with pytest.raises(CustomizationError, match="not a readable map"):
        Learned.read(tmp_path / "map.safetensors")


def test_reduction_keeps_cosines_where_features_have_few_directions():
    rng = np.random.default_rng(0)
    rows = unit(rng.standard_normal((60, 5)) @ rng.standard_normal((5, 40)))
    reduced = Reduction.fit(rows, 5)
    assert reduced.kept == pytest.approx(1.0, abs=1e-6)
    assert np.allclose(reduced.apply(rows) @ reduced.apply(rows).T, rows @ rows.T, atol=1e-5)
    assert np.array_equal(Reduction.fit(rows, 100).basis, np.eye(40, dtype=np.float32))


def test_settings_name_what_is_wrong():
    for name, value in (("kind", "mood"), ("steps", 0), ("batch", 0), ("temperature", 0.0)):
        with pytest.raises(CustomizationError, match=rf"map\.{name}"):
            MapSettings(**{name: value})


def test_the_makers_check_compares_twins(world):
    gallery, _ = world
    rng = np.random.default_rng(1)
    items = rng.integers(0, 256, gallery.item_pictures.shape, np.uint8)
    untuned = rng.integers(0, 256, gallery.pictures.shape, np.uint8)
    tuned = np.stack([items[gallery.exemplar_rows[exemplar][0]] for exemplar in gallery.whose])
    tuned[gallery.whose == 1] = untuned[gallery.whose == 1][:, ::-1]
    told = dataclasses.replace(gallery, pictures=tuned, untuned=untuned, item_pictures=items)
    found = check(told, Pixels(), None, pictures=2)
    assert found.share() >= 89 / 90 - 1e-9
    assert found.share("style") == 1.0
    swapped = dataclasses.replace(told, pictures=untuned, untuned=tuned)
    assert check(swapped, Pixels(), None).share() <= 1 / 90 + 1e-9
    own = Pixels()
    own.name = "bottleneck"
    with pytest.raises(CustomizationError, match="space of the tuned model itself"):
        check(told, own, None)
