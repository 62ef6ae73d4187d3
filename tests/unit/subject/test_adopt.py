"""A Stable-Diffusion-style checkpoint from elsewhere, adopted: encoded, sampled and scored as one trained here."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from attributary_train.errors import SubjectError
from attributary_train.subject import adopt as adopting
from attributary_train.subject.adopt import adopt
from attributary_train.subject.checkpoint import load_subject, open_pipeline, recipe_of, training_data
from attributary_train.subject.commands import subject as subject_commands
from attributary_train.subject.model import new_unet
from attributary_train.subject.queries import generate, load_queries
from attributary_train.subject.sample import sample
from attributary_train.teacher.registry import Context, create
from tests.support.pipelines import DIM, TOKENS, text_encoder, write_checkpoint
from tests.support.synthetic import synthetic_corpus

ITEMS = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    torch.set_num_threads(1)
    return synthetic_corpus(tmp_path_factory.mktemp("adopted") / "corpus", ITEMS)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def adopted(request, corpus, tmp_path_factory):
    """(checkpoint, subject folder)"""
    root = tmp_path_factory.mktemp(request.param)
    checkpoint = write_checkpoint(root / "checkpoint", request.param)
    adopt(checkpoint, corpus, root / "subject", cache=root / "cache", log=lambda line: None)
    return checkpoint, root / "subject"


def test_the_chain_reads_it_as_the_checkpoints_own_pipeline_does(adopted, corpus, tmp_path):
    checkpoint, folder = adopted
    model = load_subject(folder)
    data = training_data(model, folder, corpus, tmp_path)
    assert data.prompts == tuple(item.caption for item in corpus)
    assert data.latents.shape == (ITEMS, 4, 4, 4) and data.text.shape == (ITEMS, TOKENS, DIM)
    # Mapped from the cache, so that workers share them.
    again = training_data(model, folder, corpus, tmp_path)
    assert torch.equal(again.latents, data.latents) and torch.equal(again.text, data.text)
    mapped = Path("/proc/self/maps").read_text()
    for kind in ("latents", "text"):
        (file,) = tmp_path.glob(f"{kind}16-*.npy")
        assert str(file) in mapped
    theirs = StableDiffusionPipeline.from_pretrained(checkpoint)
    theirs.scheduler = DDIMScheduler.from_config({**theirs.scheduler.config, "clip_sample": False})
    start = torch.randn((4, 4, 4), generator=torch.Generator().manual_seed(11))[None]
    assert data.text.dtype == data.latents.dtype == torch.float16
    told = model.token_states([data.prompts[0], ""], TOKENS)
    assert torch.allclose(data.text[:1].float(), told[:1], atol=2e-3)
    ours = sample(model, told[:1], told[1], [11], steps=4, guidance=3.0)
    for pipeline in (theirs, open_pipeline(folder)):
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(
            [data.prompts[0]], num_inference_steps=4, guidance_scale=3.0, latents=start, output_type="latent"
        ).images
        assert torch.allclose(ours, images, atol=1e-4)
    pixels = torch.from_numpy(np.array(corpus.image(int(data.ids[0])).resize((16, 16), 4))).float()
    with torch.no_grad():
        latent = theirs.vae.encode(pixels.permute(2, 0, 1)[None] / 127.5 - 1).latent_dist.mean
    assert torch.allclose(
        data.latents[:1].float(), latent * theirs.vae.config.scaling_factor, rtol=1e-3, atol=1e-4
    )
    for path in [folder / "subject.json", *folder.glob("*/*.json")]:
        assert str(checkpoint.parent) not in path.read_text(), path


def test_losses_have_the_target_of_the_schedules_prediction(adopted):
    model = load_subject(adopted[1])
    latents, noise = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([3, 400, 990])
    expected = {
        "epsilon": noise,
        "v_prediction": model.scheduler.get_velocity(latents, noise, steps),
    }[model.scheduler.config.prediction_type]
    assert torch.allclose(model.target(latents, noise, steps), expected, atol=1e-6)
    assert torch.allclose(
        model.noised(latents, noise, steps), model.scheduler.add_noise(latents, noise, steps), atol=1e-6
    )


@pytest.mark.parametrize("adopted", ["epsilon"], indirect=True)
def test_queries_of_it_are_scored_through_the_registry(adopted, corpus, tmp_path):
    _, folder = adopted
    path = tmp_path / "queries.parquet"
    words = ["queries", "--subject", str(folder), "--corpus", str(corpus.root), "--out", str(path)]
    counts = ["--train", "0", "--validation", "0", "--test", "2", "--steps", "2"]
    run = CliRunner().invoke(subject_commands, [*words, *counts])
    assert run.exit_code == 0, run.output
    model = load_subject(folder)
    data = training_data(model, folder, corpus, tmp_path / "cache")
    queries = load_queries(path, model)
    assert queries.kinds == ("seen", "seen") and set(queries.prompts) <= set(data.prompts)
    method = create(
        "abu+",
        Context(folder, corpus, tmp_path / "cache"),
        {"alpha": 0.1, "gradient_draws": 4, "timesteps": 1},
    )
    method.fit(data, model)
    scores = method.score(queries, data.ids)
    assert scores.shape == (2, ITEMS) and np.isfinite(scores).all() and np.ptp(scores) > 0
    with pytest.raises(SubjectError, match="another text encoder"):
        load_queries(path)
    with pytest.raises(SubjectError, match="cannot be retrained"):
        new_unet(recipe_of(model))


def config_of(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without_text(folder):
    shutil.rmtree(folder / "text_encoder")


def without_cross_attention(folder):
    UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        norm_num_groups=4,
        cross_attention_dim=DIM,
    ).save_pretrained(folder / "unet")


def narrow_text(folder):
    text_encoder(8)[0].save_pretrained(folder / "text_encoder")


REFUSED = [
    (without_text, "text_encoder: not found"),
    (without_cross_attention, "not conditioned on text"),
    (narrow_text, r"unet\.cross_attention_dim: 16; the text encoder's states have 8"),
    (lambda folder: config_of(folder, "text_encoder/config.json", model_type="t5"), "model_type 't5'"),
    (lambda folder: config_of(folder, "unet/config.json", layers_per_block=2), "lacks weights of UNet2D"),
    (
        lambda folder: config_of(folder, "unet/config.json", sample_size=[4, 8]),
        r"image_size: .*give --image-size",
    ),
    (lambda folder: config_of(folder, "vae/config.json", shift_factor=0.1), r"vae\.shift_factor: 0\.1"),
    (
        lambda folder: config_of(folder, "scheduler/scheduler_config.json", prediction_type="sample"),
        r"scheduler\.prediction_type: 'sample'; epsilon or v_prediction",
    ),
    (
        lambda folder: (folder / "scheduler/scheduler_config.json").write_text(
            '{"_class_name": "FlowMatchEulerDiscreteScheduler"}'
        ),
        "FlowMatchEulerDiscreteScheduler has no betas",
    ),
]


@pytest.mark.parametrize("adopted", ["epsilon"], indirect=True)
@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_checkpoints_of_another_kind_are_refused_by_name(adopted, corpus, tmp_path, change, said):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(adopted[0], checkpoint)
    change(checkpoint)
    with pytest.raises(SubjectError, match=said):
        adopt(checkpoint, corpus, tmp_path / "subject", cache=tmp_path / "cache")
    assert not (tmp_path / "subject").exists()


@pytest.mark.parametrize("adopted", ["epsilon"], indirect=True)
def test_what_else_can_be_wrong_is_said_by_name(adopted, corpus, tmp_path, monkeypatch):
    checkpoint, folder = adopted
    with pytest.raises(SubjectError, match="image_size: 17; must be a multiple of 4"):
        adopt(checkpoint, corpus, tmp_path / "s", cache=tmp_path, image_size=17)
    with pytest.raises(SubjectError, match="not empty"):
        adopt(checkpoint, corpus, folder, cache=tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adopting, "write_manifest", full)
    with pytest.raises(SubjectError, match=r"s: cannot be written: .*No space left"):
        adopt(checkpoint, corpus, tmp_path / "s", cache=folder.parent / "cache")
    assert not (tmp_path / "s").exists()
    with pytest.raises(SubjectError, match=r"subject\.json: is missing.*subject adopt"):
        training_data(load_subject(checkpoint), checkpoint, corpus, tmp_path)
    captionless = tmp_path / "captionless"
    shutil.copytree(corpus.root, captionless)
    table = pq.read_table(captionless / "items.parquet")
    pq.write_table(table.drop_columns(["caption"]), captionless / "items.parquet")
    words = [
        "adopt",
        "--checkpoint",
        str(checkpoint),
        "--corpus",
        str(captionless),
        "--out",
        str(tmp_path / "s"),
    ]
    run = CliRunner().invoke(subject_commands, words)
    assert run.exit_code == 1 and "columns missing: caption" in run.output


@pytest.mark.parametrize("adopted", ["epsilon"], indirect=True)
def test_another_size_and_a_changed_encoder(adopted, corpus, tmp_path):
    checkpoint, folder = adopted
    words = ["adopt", "--checkpoint", str(checkpoint), "--corpus", str(corpus.root), "--subset"]
    words += ["--out", str(tmp_path / "s"), "--cache", str(tmp_path / "cache"), "--image-size", "32"]
    run = CliRunner().invoke(subject_commands, words)
    assert run.exit_code == 0, run.output
    model = load_subject(tmp_path / "s")
    assert model.facts["adopted"]["whole_training_set"] is False
    data = training_data(model, tmp_path / "s", corpus, tmp_path / "cache")
    assert (
        data.latents.shape[2:] == (8, 8)
        and data.digest != load_subject(folder).facts["training_set"]["digest"]
    )
    assert sample(model, data.text[:1], data.empty, [1], steps=1).shape == (1, 4, 8, 8)
    text_encoder()[0].save_pretrained(tmp_path / "s" / "text_encoder")
    with pytest.raises(SubjectError, match=r"text_encoder: hash .* is not the manifest's"):
        generate(load_subject(tmp_path / "s"), [], TOKENS)
