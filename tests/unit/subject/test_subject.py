"""The subject model: recipes, repeatable training, pairing, sampling, checkpoints, queries."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from attributary_train.errors import SubjectError
from attributary_train.evaluation.retrain import without
from attributary_train.generators.latents import decode
from attributary_train.subject.autoencoder import train_autoencoder
from attributary_train.subject.checkpoint import (
    load_autoencoder,
    load_subject,
    open_pipeline,
    recipe_of,
    save_subject,
    training_data,
)
from attributary_train.subject.commands import subject as subject_commands
from attributary_train.subject.data import load_data
from attributary_train.subject.model import SubjectModel, loss_timesteps, new_scheduler, new_unet
from attributary_train.subject.noise import noise_for, noise_grid, noise_key
from attributary_train.subject.pictures import squares
from attributary_train.subject.prompts import prompt_for
from attributary_train.subject.prompts_split import query_prompts
from attributary_train.subject.queries import generate, load_queries, save_queries
from attributary_train.subject.recipe import PRESETS, Recipe, preset
from attributary_train.subject.reference import reference_split
from attributary_train.subject.sample import sample
from attributary_train.subject.train import Run, batch_rows, mean_loss, train_unet
from tests.support.synthetic import synthetic_corpus

ITEMS = 30
RECIPE = dataclasses.replace(
    preset("tiny"), steps=12, warmup=2, autoencoder=dataclasses.replace(preset("tiny").autoencoder, steps=8)
)


class World:
    """A corpus, its autoencoder and latents, and a saved model."""

    def __init__(self, root):
        torch.set_num_threads(1)
        self.root = root
        self.corpus = synthetic_corpus(root / "corpus", ITEMS)
        pictures = squares(self.corpus, RECIPE.image_size, root / "cache")
        self.autoencoder = train_autoencoder(RECIPE, pictures, root / "ae", log=lambda line: None)
        self.data = load_data(
            self.corpus, [item.id for item in self.corpus], RECIPE, self.autoencoder, root / "cache"
        )
        unet = train_unet(Run(RECIPE, np.ones(ITEMS, bool), 0, 0), self.data)
        self.folder = root / "model"
        self.model = save_subject(
            self.folder, unet, self.autoencoder, new_scheduler(RECIPE), RECIPE, self.data, {}
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def weights_of(unet):
    return torch.cat([value.flatten() for value in unet.state_dict().values()])


def test_recipes_survive_json_and_name_what_is_wrong():
    for recipe in PRESETS.values():
        assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert preset("tiny").digest() != preset("small").digest()
    with pytest.raises(SubjectError, match=r"recipe\.colour: unknown"):
        Recipe.from_json({"name": "x", "colour": 1})
    with pytest.raises(SubjectError, match="no level attends"):
        Recipe(name="x", attention=(False, False))
    with pytest.raises(SubjectError, match="'huge' is unknown"):
        preset("huge")
    with pytest.raises(SubjectError, match="3 flags for 2 levels"):
        Recipe(name="x", attention=(True, True, True))


def test_presets_build_what_they_say():
    small = new_unet(preset("small"))
    count = sum(value.numel() for value in small.parameters())
    assert 1.0e6 < count < 1.5e6
    names = [name for name, _ in small.named_modules() if name.endswith("attn2.to_k")]
    assert names and not any(name.startswith("down_blocks.0") for name in names)


def test_noise_belongs_to_item_caption_and_timestep():
    key = noise_key(7, "a red disc")
    once = noise_for(key, 50, (4, 8, 8))
    assert np.array_equal(once, noise_for(key, 50, (4, 8, 8)))
    for other in (
        noise_for(noise_key(8, "a red disc"), 50, (4, 8, 8)),
        noise_for(noise_key(7, "a disc"), 50, (4, 8, 8)),
        noise_for(key, 51, (4, 8, 8)),
        noise_for(key, 50, (4, 8, 8), draw=1),
    ):
        assert abs(np.corrcoef(once.ravel(), other.ravel())[0, 1]) < 0.3
    many = noise_grid([noise_key(at, "x") for at in range(40)], [10, 500], (4, 8, 8))
    assert abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 1.0) < 0.02
    assert np.array_equal(many[3, 1].numpy(), noise_for(noise_key(3, "x"), 500, (4, 8, 8)))


def test_training_is_repeatable_and_resumes_to_the_same_bits(world, tmp_path):
    run = Run(RECIPE, np.ones(ITEMS, bool), 3, 4)
    straight = train_unet(run, world.data)

    class KilledError(Exception):
        pass

    def kill(step, unet, loss):
        raise KilledError

    with pytest.raises(KilledError):
        train_unet(run, world.data, state_dir=tmp_path, save_every=5, on_step=kill)
    resumed = train_unet(run, world.data, state_dir=tmp_path, save_every=5)
    assert torch.equal(weights_of(straight), weights_of(resumed))
    other = train_unet(dataclasses.replace(run, seed=5), world.data)
    assert not torch.equal(weights_of(straight), weights_of(other))
    with pytest.raises(SubjectError, match="another run: seed differs"):
        train_unet(dataclasses.replace(run, seed=6), world.data, state_dir=tmp_path)


def test_runs_that_leave_items_out_meet_the_same_batches_otherwise(world):
    kept = without(world.data, world.data.ids[:4])
    assert kept.sum() == ITEMS - 4
    whole = Run(RECIPE, np.ones(ITEMS, bool), 0, 0)
    less = Run(RECIPE, kept, 0, 0)
    changed = 0
    for step in range(20):
        a, b = batch_rows(whole, step, ITEMS), batch_rows(less, step, ITEMS)
        assert kept[b].all()
        assert np.array_equal(a[kept[a]], b[kept[a]])
        changed += int((a != b).sum())
    assert changed > 0
    with pytest.raises(SubjectError, match="leaves no item"):
        train_unet(Run(RECIPE, np.zeros(ITEMS, bool), 0, 0), world.data)
    with pytest.raises(SubjectError, match="is not in the training set"):
        without(world.data, [12345])


def test_training_lowers_the_loss(world):
    torch.manual_seed(0)
    fresh = SubjectModel(new_unet(RECIPE).eval(), new_scheduler(RECIPE), "", {})
    longer = train_unet(Run(dataclasses.replace(RECIPE, steps=60), np.ones(ITEMS, bool), 0, 0), world.data)
    trained = SubjectModel(longer, new_scheduler(RECIPE), "", {})
    assert mean_loss(trained, world.data) < 0.85 * mean_loss(fresh, world.data)


def test_nan_stops_training_by_name(world):
    broken = dataclasses.replace(world.data, latents=torch.full_like(world.data.latents, float("nan")))
    with pytest.raises(SubjectError, match="gradient: not finite at step 0"):
        train_unet(Run(RECIPE, np.ones(ITEMS, bool), 0, 0), broken)


def test_samples_depend_on_their_own_seed_alone(world):
    text, empty = world.data.text[:5], world.data.empty
    together = sample(world.model, text, empty, [1, 2, 3, 4, 5], steps=3)
    alone = sample(world.model, text[3:4], empty, [4], steps=3)
    assert torch.equal(together[3:4], alone)
    assert not torch.equal(together[:1], sample(world.model, text[:1], empty, [9], steps=3))
    with pytest.raises(SubjectError, match="seeds: 2 for 5"):
        sample(world.model, text, empty, [1, 2])
    with pytest.raises(SubjectError, match="steps: 0"):
        sample(world.model, text, empty, [1] * 5, steps=0)


def test_checkpoint_opens_again_and_in_diffusers_own_pipeline(world):
    model = load_subject(world.folder)
    assert model.weights == world.model.weights and recipe_of(model) == RECIPE
    for part in ("unet", "vae"):
        assert str(world.root) not in (world.folder / part / "config.json").read_text()
    data = training_data(model, world.folder, world.corpus, world.root / "fresh-cache")
    assert torch.equal(data.latents, world.data.latents) and data.digest == world.data.digest
    pipeline = open_pipeline(world.folder)
    pipeline.set_progress_bar_config(disable=True)
    prompt = world.data.prompts[0]
    ours = sample(model, world.data.text[:1], world.data.empty, [11], steps=4, guidance=3.0)
    shape = (1, RECIPE.latent_channels, RECIPE.latent_size, RECIPE.latent_size)
    start = torch.randn(shape[1:], generator=torch.Generator().manual_seed(11))[None]
    theirs = pipeline(
        [prompt],
        num_inference_steps=4,
        guidance_scale=3.0,
        latents=start,
        output_type="latent",
        height=RECIPE.image_size,
        width=RECIPE.image_size,
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert decode(load_autoencoder(world.folder), ours).shape == (1, 32, 32, 3)


def test_checkpoints_and_corpora_that_do_not_belong_together_are_refused(world, tmp_path):
    import shutil

    changed = tmp_path / "changed"
    shutil.copytree(world.folder, changed)
    facts = json.loads((changed / "subject.json").read_text())
    facts["weights"] = "0" * 64
    (changed / "subject.json").write_text(json.dumps(facts))
    with pytest.raises(SubjectError, match="is not the manifest's"):
        load_subject(changed)
    other = synthetic_corpus(tmp_path / "other", 10)
    with pytest.raises(SubjectError, match="items of the training set are not in"):
        training_data(world.model, world.folder, other, tmp_path)
    captions = [dataclasses.replace(item, caption="something else") for item in world.corpus]
    renamed = type(world.corpus)(world.corpus.root, captions, world.corpus.facts)
    with pytest.raises(SubjectError, match="other pictures or captions"):
        training_data(world.model, world.folder, renamed, world.root / "cache")
    nameless = [dataclasses.replace(item, caption=" ") for item in world.corpus]
    with pytest.raises(SubjectError, match="caption: item"):
        load_data(
            type(world.corpus)(world.corpus.root, nameless, {}),
            [item.id for item in world.corpus],
            RECIPE,
            world.autoencoder,
            tmp_path,
        )
    with pytest.raises(SubjectError, match="not a readable UNet2DConditionModel"):
        load_subject(tmp_path)


def test_a_unet_without_cross_attention_is_refused(tmp_path):
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        norm_num_groups=4,
        cross_attention_dim=8,
    )
    plain.save_pretrained(tmp_path / "unet")
    new_scheduler(RECIPE).save_pretrained(tmp_path / "scheduler")
    with pytest.raises(SubjectError, match="not conditioned on text"):
        load_subject(tmp_path)


def test_queries_can_be_generated_again_bit_for_bit(world, tmp_path):
    prompts = query_prompts(
        world.corpus,
        [item.id for at, item in enumerate(world.corpus) if at % 5],
        [],
        {"train": 8, "test": 4},
        seed=1,
    )
    assert len({prompt.text for prompt in prompts}) == 12
    assert {prompt.kind for prompt in prompts} == {"seen", "recombined"}
    made = generate(world.model, prompts, RECIPE.tokens, steps=3)
    save_queries(made, tmp_path / "q.parquet")
    read = load_queries(tmp_path / "q.parquet", world.model)
    assert torch.equal(read.latents, made.latents) and read.names == made.names
    one = made.take([5])
    empty = world.data.empty
    again = sample(world.model, one.text, empty, one.seeds, steps=read.steps, guidance=read.guidance)
    assert torch.equal(again, read.latents[5:6])
    assert len(read.split("test")) == 4
    stranger = dataclasses.replace(world.model, weights="f" * 64)
    with pytest.raises(SubjectError, match="made by model"):
        load_queries(tmp_path / "q.parquet", stranger)
    with pytest.raises(SubjectError, match=r"queries\.train"):
        query_prompts(world.corpus, [item.id for item in world.corpus], [], {"train": 10_000})


def test_timesteps_are_evenly_spread():
    model = SubjectModel(None, new_scheduler(preset("small")), "", {})
    assert loss_timesteps(model, 10) == [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]
    with pytest.raises(SubjectError, match="timesteps: 0"):
        loss_timesteps(model, 0)


def test_prompts_keep_the_style_when_captions_are_long():
    assert prompt_for("one two three four five six seven eight nine ten", "Noto").endswith(
        "eight, Noto style"
    )
    assert prompt_for("smiley, people, smilies", "Noto") == "smiley, Noto style"


def test_reference_selection_says_when_a_corpus_is_too_small(world):
    with pytest.raises(SubjectError, match="concepts have 5 styles"):
        reference_split(world.corpus)
    split = reference_split(world.corpus, concepts=5, styles=4, drawings=0, unseen=2)
    parts = [set(split.train), set(split.recombined), set(split.unseen)]
    assert [len(part) for part in parts] == [18, 2, 2]
    assert not parts[0] & parts[1] and not (parts[0] | parts[1]) & parts[2]


def test_commands_train_and_tell(tmp_path, world):
    out = tmp_path / "out"
    words = [
        "train",
        "--preset",
        "tiny",
        "--corpus",
        str(world.corpus.root),
        "--out",
        str(out),
        "--all-items",
    ]
    run = CliRunner().invoke(subject_commands, [*words, "--steps", "4", "--cache", str(tmp_path / "cache")])
    assert run.exit_code == 0, run.output
    for name in ("curve.png", "samples.png", "progress.json", "unet/config.json", "subject.json"):
        assert (out / name).exists()
    facts = json.loads(CliRunner().invoke(subject_commands, ["show", str(out)]).output)
    assert facts["training_items"] == ITEMS and facts["command"].endswith("--all-items --steps 4")
    bad = CliRunner().invoke(subject_commands, ["train", "--preset", "no", *words[3:]])
    assert bad.exit_code == 1 and "preset: 'no' is unknown" in bad.output


def test_the_committed_model_is_the_one_its_manifest_names():
    from pathlib import Path

    folder = Path(__file__).parents[3] / "models" / "subject"
    model = load_subject(folder)
    assert recipe_of(model) == preset("small")
    assert model.facts["training_set"]["count"] == len(set(model.facts["training_set"]["ids"])) == 1020
    assert not set(model.facts["training_set"]["ids"]) & {*model.facts["held_out"], *model.facts["unseen"]}
    pipeline = open_pipeline(folder)
    assert pipeline.tokenizer.model_max_length == 16
    assert load_autoencoder(folder).config.latent_channels == 8
