"""Captions of several levels, the two stages, and queries of such a model."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from attributary_train.errors import SubjectError
from attributary_train.subject.autoencoder import train_autoencoder
from attributary_train.subject.captions import LEVELS, Captions, Categories, captions_of
from attributary_train.subject.checkpoint import load_subject, recipe_of, training_data
from attributary_train.subject.commands import subject as subject_commands
from attributary_train.subject.data import load_data
from attributary_train.subject.level_queries import DRAWING, EMPTY, drawing_queries, level_prompts
from attributary_train.subject.pictures import squares
from attributary_train.subject.queries import generate, load_queries
from attributary_train.subject.recipe import Recipe, levels_of, preset
from attributary_train.subject.run import train_subject
from attributary_train.subject.selection import attribution_selection, rest_selection
from attributary_train.subject.together import train_together
from attributary_train.subject.train import Run, train_unet
from tests.support.synthetic import synthetic_corpus

ITEMS = 120
SEVERAL = (("concept", 0.25), ("category", 0.5), ("style", 0.25))
TINY = dataclasses.replace(
    preset("tiny"), steps=8, warmup=2, autoencoder=dataclasses.replace(preset("tiny").autoencoder, steps=4)
)
LEVELLED = dataclasses.replace(TINY, captions=SEVERAL)


class Stage:
    """A corpus, a base that was trained on its first third, and data of the rest."""

    def __init__(self, root):
        torch.set_num_threads(1)
        self.root, self.cache = root, root / "cache"
        self.corpus = synthetic_corpus(root / "corpus", ITEMS)
        ids = [item.id for item in self.corpus]
        self.first, self.second = ids[: ITEMS // 3], ids[ITEMS // 3 :]
        self.base = root / "base"
        train_subject(
            LEVELLED,
            self.corpus,
            self.first,
            [],
            self.base,
            cache=self.cache,
            command="base",
            log=lambda _: None,
        )
        self.folder = root / "model"
        self.model = train_subject(
            LEVELLED,
            self.corpus,
            self.second,
            self.first[:6],
            self.folder,
            cache=self.cache,
            command="model",
            log=lambda _: None,
            base=self.base,
        )
        self.data = training_data(self.model, self.folder, self.corpus, self.cache)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return Stage(tmp_path_factory.mktemp("stage"))


def weights_of(unet):
    return torch.cat([value.flatten() for value in unet.state_dict().values()])


def test_captions_are_shared_and_never_name_an_item(stage):
    captions = stage.data.captions
    for name in ("category", "style"):
        assert min(Counter(captions.of_level(name)).values()) > 1
    told = {item.id: item for item in stage.corpus}
    kinds = Categories(stage.corpus)
    for row, number in enumerate(stage.data.ids.tolist()):
        expected = [LEVELS[name](told[number], kinds) for name, _ in SEVERAL]
        assert [captions.prompts[at] for at in captions.of_item[row].tolist()] == expected
    # The level that is drawn most often stands for the item where only one caption can.
    assert list(stage.data.prompts) == captions.of_level("category")


def test_drawn_levels_have_their_shares_and_belong_to_item_and_timestep(stage):
    captions, rows = stage.data.captions, torch.zeros(4000, dtype=torch.int64)
    drawn = captions.drawn(rows, torch.Generator().manual_seed(0))
    for level, (_, share) in enumerate(SEVERAL):
        same = (drawn == captions.states[captions.of_item[0, level]]).flatten(1).all(dim=1)
        assert abs(float(same.float().mean()) - share) < 0.03
    steps = torch.arange(0, 1000, 10)
    every = torch.arange(len(stage.data)).repeat_interleave(len(steps))
    asked = stage.data.text_at(every, steps.repeat(len(stage.data)))
    alone = stage.data.text_at(torch.tensor([7]), steps[3:4])
    assert torch.equal(asked[7 * len(steps) + 3], alone[0])
    for level, (_, share) in enumerate(SEVERAL):
        same = (asked == captions.states[captions.of_item[every, level]]).flatten(1).all(dim=1)
        assert abs(float(same.float().mean()) - share) < 0.03


def test_one_caption_an_item_stays_what_it_was(stage):
    plain = load_data(stage.corpus, stage.second, TINY, stage_autoencoder(stage), stage.cache)
    assert plain.captions is None and plain.digest != stage.data.digest
    rows = torch.tensor([3, 1])
    assert torch.equal(plain.text_at(rows, torch.tensor([10, 500])), plain.text[rows])
    # Old recipes keep their digests: stores of retrained models are named by them.
    assert "captions" not in TINY.to_json() and "base" not in TINY.to_json()
    assert Recipe.from_json(json.loads(json.dumps(LEVELLED.to_json()))) == LEVELLED
    assert LEVELLED.digest() != TINY.digest()


def stage_autoencoder(stage):
    from attributary_train.subject.checkpoint import load_autoencoder

    return load_autoencoder(stage.folder)


def test_the_second_stage_starts_from_the_base(stage):
    recipe = recipe_of(stage.model)
    assert recipe.base == load_subject(stage.base).weights
    kept = np.ones(len(stage.data), bool)
    still = dataclasses.replace(recipe, learning_rate=1e-9, steps=3)
    base = weights_of(load_subject(stage.base).unet)
    assert torch.allclose(weights_of(train_unet(Run(still, kept, 0, 0), stage.data)), base, atol=1e-4)
    with pytest.raises(SubjectError, match=r"recipe\.base: is .*no weights"):
        train_unet(Run(recipe, kept, 0, 0), dataclasses.replace(stage.data, start=None))
    with pytest.raises(SubjectError, match=r"recipe\.base: is empty"):
        train_unet(Run(LEVELLED, kept, 0, 0), stage.data)


def test_runs_side_by_side_end_as_they_do_alone(stage):
    recipe = dataclasses.replace(recipe_of(stage.model), steps=6)
    kept = np.ones(len(stage.data), bool)
    less = kept.copy()
    less[: len(kept) // 2] = False
    runs = [Run(recipe, kept, 0, 0), Run(recipe, less, 0, 0), Run(recipe, less, 5, 5)]
    for run, unet in zip(runs, train_together(runs, stage.data), strict=True):
        alone, base = train_unet(run, stage.data), load_subject(stage.base).unet
        moved = (weights_of(alone) - weights_of(base)).norm()
        assert (weights_of(unet) - weights_of(alone)).norm() < 0.02 * moved
    with pytest.raises(SubjectError, match="several recipes"):
        train_together([runs[0], Run(dataclasses.replace(recipe, steps=7), kept, 0, 0)], stage.data)


def test_a_base_of_another_shape_is_refused(stage, tmp_path):
    wider = dataclasses.replace(LEVELLED, widths=(16, 48))
    with pytest.raises(SubjectError, match="not of the shape"):
        train_subject(
            wider,
            stage.corpus,
            stage.second,
            [],
            tmp_path / "out",
            cache=stage.cache,
            command="",
            base=stage.base,
        )


def test_levels_are_read_and_refused_by_name(stage):
    assert levels_of("concept=0.25, category=0.75") == (("concept", 0.25), ("category", 0.75))
    with pytest.raises(SubjectError, match="write LEVEL=SHARE"):
        levels_of("concept")
    with pytest.raises(SubjectError, match="level 'colour'"):
        captions_of(stage.corpus, list(stage.corpus), (("colour", 1.0),), lambda asked: torch.zeros(1))
    with pytest.raises(SubjectError, match=r"recipe\.captions"):
        Recipe(name="x", captions=(("concept", 0.0),))
    with pytest.raises(SubjectError, match=r"recipe\.items"):
        Recipe(name="x", items="some")
    shown = CliRunner().invoke(subject_commands, ["train", "--help"]).output
    assert "--base" in shown and "--captions" in shown


def test_queries_ask_on_every_level_and_no_caption_in_two_splits(stage):
    captions = stage.data.captions
    prompts = level_prompts(captions, {"train": 20, "validation": 10, "test": 10}, seed=3)
    assert Counter(p.split for p in prompts) == {"train": 20, "validation": 10, "test": 10}
    assert {p.kind for p in prompts} == {*(name for name, _ in SEVERAL), EMPTY}
    split_of = {}
    for prompt in prompts:
        if prompt.text:
            assert split_of.setdefault(prompt.text, prompt.split) == prompt.split
    assert len({p.seed for p in prompts}) == len(prompts)


def test_held_out_drawings_are_queries(stage):
    held = load_data(
        stage.corpus, stage.first[:6], recipe_of(stage.model), stage_autoencoder(stage), stage.cache
    )
    made = generate(stage.model, level_prompts(stage.data.captions, {"test": 4}), LEVELLED.tokens, steps=2)
    both = drawing_queries(stage.model, held, made)
    rows = [row for row, kind in enumerate(both.kinds) if kind == DRAWING]
    assert len(rows) == 6 and len(set(both.names)) == len(both)
    assert torch.equal(both.latents[rows], held.latents)
    assert [both.seeds[row] for row in rows] == held.ids.tolist()
    assert {both.splits[row] for row in rows} == {"validation", "test"}


def test_queries_without_drawings_are_the_same_generated_ones(stage):
    made = {}
    for flag in ("", "--no-drawings"):
        out = stage.root / f"queries{flag}.parquet"
        found = CliRunner().invoke(
            subject_commands,
            f"queries --subject {stage.folder} --corpus {stage.root}/corpus --out {out} --cache {stage.cache} "
            f"--train 1 --validation 3 --test 2 --steps 2 {flag}".split(),
        )
        assert found.exit_code == 0, found.output
        made[flag] = load_queries(out)
    both, plain = made[""], made["--no-drawings"]
    assert DRAWING in both.kinds and DRAWING not in plain.kinds
    assert both.names[: len(plain)] == plain.names and len(plain) == 6


def test_a_corpus_of_too_few_concepts_is_refused(stage):
    with pytest.raises(SubjectError, match="concepts"):
        attribution_selection(stage.corpus)


def test_the_rest_has_nothing_of_what_is_studied(stage):
    chosen = attribution_selection(
        stage.corpus, concepts=4, styles=4, per_category=(1, 9), creators=0, unseen=2, seed=1
    )
    assert len(chosen.train) + len(chosen.recombined) == 16 and len(chosen.unseen) == 2
    rest = rest_selection(stage.corpus, chosen)
    taken = [stage.corpus.item(n) for n in (*chosen.train, *chosen.recombined, *chosen.unseen)]
    for item in (stage.corpus.item(number) for number in rest.train):
        assert item.concept_id not in {other.concept_id for other in taken}
        assert item.near_dup_group not in {other.near_dup_group for other in taken}
    assert rest.train


def test_autoencoders_are_taken_over(stage, tmp_path):
    pictures = squares(stage.corpus, TINY.image_size, stage.cache)
    other = dataclasses.replace(
        TINY, latent_channels=8, autoencoder=dataclasses.replace(TINY.autoencoder, latent_channels=8)
    )
    train_autoencoder(other, pictures, tmp_path / "ae", log=lambda _: None)
    with pytest.raises(SubjectError, match="autoencoder has"):
        train_subject(
            other,
            stage.corpus,
            stage.second,
            [],
            tmp_path / "out",
            cache=stage.cache,
            command="",
            autoencoder_of=stage.folder,
        )


def test_ten_captions_are_shared_out_among_the_splits():
    names = tuple(f"garment {at}" for at in range(10))
    of_item = torch.arange(40)[:, None] % 10
    captions = Captions(("concept",), names, torch.zeros(10, 2, 3), of_item, torch.ones(1))
    prompts = level_prompts(captions, {"train": 40, "validation": 16, "test": 16})
    asked = {
        split: {prompt.text for prompt in prompts if prompt.split == split and prompt.kind != EMPTY}
        for split in ("train", "validation", "test")
    }
    assert [len(found) for found in asked.values()] == [6, 2, 2]
    assert len(set.union(*asked.values())) == 10
    # Of two captions one split has none, and is named.
    few = dataclasses.replace(captions, of_item=of_item % 2)
    with pytest.raises(SubjectError, match=r"queries\.validation: no caption of level concept"):
        level_prompts(few, {"validation": 4})
