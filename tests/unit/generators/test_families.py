"""Each family: its loss is the training script's, its gradients are autograd's, its queries are its pipeline's own."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FluxPipeline

from attributary_train.errors import SubjectError
from attributary_train.generators.families import BY_NAME
from attributary_train.student.words import words_of
from attributary_train.subject.adopt import adopt, inspect
from attributary_train.subject.checkpoint import load_subject
from attributary_train.subject.queries import Prompt, generate, load_queries, save_queries
from attributary_train.teacher.abu import Abu, AbuSettings
from attributary_train.teacher.ekfac import FactorSettings
from attributary_train.teacher.factors import fit_factors
from attributary_train.teacher.gradients import GradientPass, GradientSettings, output_of
from attributary_train.teacher.parameters import module_names
from attributary_train.teacher.projection import Whole
from tests.unit.generators.conftest import SIZE, SIZES

PROMPTS = ["a red ellipse", "two blue squares", ""]


def draws(model, latents, rows=3):
    stream = torch.Generator().manual_seed(5)
    noise = torch.randn(rows, *latents.shape[1:], generator=stream)
    return latents[:rows].float(), noise, torch.tensor([3, 500, 996])


def scripts_loss(adopted, latents, noise, steps):
    """What diffusers' training scripts make of a batch, by the words of scheduler and pipeline: rows' means."""
    pipe, name = adopted.pipeline, adopted.name
    with torch.no_grad():
        if name in ("sdxl", "pixart"):
            scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
            noisy = scheduler.add_noise(latents, noise, steps)
            if name == "sdxl":
                states, _, pooled, _ = pipe.encode_prompt(
                    PROMPTS[:2], device="cpu", do_classifier_free_guidance=False
                )
                # A caption that was dropped is shown as zeros by models that say so.
                states = torch.cat([states, torch.zeros_like(states[:1])])
                pooled = torch.cat([pooled, torch.zeros_like(pooled[:1])])
                side = latents.shape[-1] * pipe.vae_scale_factor
                ids = torch.tensor([[side, side, 0, 0, side, side]]).repeat(3, 1)
                added = {"time_ids": ids, "text_embeds": pooled}
                answer = pipe.unet(noisy, steps, states, added_cond_kwargs=added).sample
            else:
                states, mask, _, _ = pipe.encode_prompt(
                    PROMPTS, do_classifier_free_guidance=False, device="cpu", max_sequence_length=24
                )
                sizes = {"resolution": None, "aspect_ratio": None}
                answer = pipe.transformer(
                    noisy, encoder_hidden_states=states, encoder_attention_mask=mask, timestep=steps,
                    added_cond_kwargs=sizes,
                ).sample.chunk(2, dim=1)[0]  # fmt: skip
            return (answer - noise).square().flatten(1).mean(1)
        scheduler = pipe.scheduler
        # Scripts draw an index from the noisiest; a level here counts from the cleanest.
        index = scheduler.config.num_train_timesteps - 1 - steps
        times, sigmas = scheduler.timesteps[index], scheduler.sigmas[index].view(-1, 1, 1, 1)
        noisy = (1.0 - sigmas) * latents + sigmas * noise
        if name == "sana":
            states, mask, _, _ = pipe.encode_prompt(
                PROMPTS, do_classifier_free_guidance=False, device="cpu", max_sequence_length=24
            )
            answer = pipe.transformer(
                noisy, encoder_hidden_states=states, encoder_attention_mask=mask, timestep=times
            ).sample
        elif name == "flux":
            states, pooled, text_ids = pipe.encode_prompt(
                PROMPTS, PROMPTS, device="cpu", max_sequence_length=24
            )
            height, width = latents.shape[2:]
            packed = pipe.transformer(
                hidden_states=FluxPipeline._pack_latents(noisy, 3, latents.shape[1], height, width),
                timestep=times / 1000, guidance=None, pooled_projections=pooled, encoder_hidden_states=states,
                txt_ids=text_ids,
                img_ids=FluxPipeline._prepare_latent_image_ids(3, height // 2, width // 2, "cpu", torch.float32),
            ).sample  # fmt: skip
            factor = pipe.vae_scale_factor
            answer = FluxPipeline._unpack_latents(packed, height * factor, width * factor, factor)
        else:
            states, _, pooled, _ = pipe.encode_prompt(
                PROMPTS,
                PROMPTS,
                PROMPTS,
                device="cpu",
                do_classifier_free_guidance=False,
                max_sequence_length=24,
            )
            answer = pipe.transformer(
                hidden_states=noisy, timestep=times, encoder_hidden_states=states, pooled_projections=pooled
            ).sample
            return (answer * -sigmas + noisy - latents).square().flatten(1).mean(1)
        return (answer - (noise - latents)).square().flatten(1).mean(1)


def test_the_loss_is_what_the_training_script_computes(adopted):
    latents, noise, steps = draws(adopted.model, adopted.data.latents)
    with torch.no_grad():
        ours = adopted.model.losses(latents, noise, steps, adopted.model.token_states(PROMPTS, 0))
    assert torch.allclose(ours, scripts_loss(adopted, latents, noise, steps), rtol=1e-5, atol=1e-5)
    assert ours.std() > 0


def by_autograd(model, output, latents, noise, steps, text):
    """Each row's gradient in the text's keys and values, [B, P], a layer after the other, biases as last columns."""
    modules = dict(model.unet.named_modules())
    rows = []
    names = module_names(model.unet, "cross_kv")
    weights = [
        part for name in names for part in (modules[name].weight, modules[name].bias) if part is not None
    ]
    for part in weights:
        part.requires_grad_(True)
    try:
        for at in range(len(latents)):
            one = slice(at, at + 1)
            value = output_of(model, output, latents[one], noise[one], steps[one], text[one]).sum()
            found = dict(zip(map(id, weights), torch.autograd.grad(value, weights), strict=True))
            layers = []
            for name in names:
                matrix, bias = found[id(modules[name].weight)], modules[name].bias
                if bias is not None:
                    matrix = torch.cat([matrix, found[id(bias)][:, None]], dim=1)
                layers.append(matrix.flatten())
            rows.append(torch.cat(layers))
    finally:
        model.unet.requires_grad_(False)
    return torch.stack(rows)


@pytest.mark.parametrize("output", ["loss", "square", "mean"])
def test_gradients_are_those_of_autograd(adopted, output):
    """TRAK's loss, D-TRAK's square and DAS's mean."""
    model = adopted.model
    latents, noise, steps = draws(model, adopted.data.latents)
    text = model.token_states(PROMPTS, 0)
    passing = GradientPass(model, GradientSettings("cross_kv", output), Whole())
    found = torch.zeros(3, passing.total)
    passing.add(found, latents, noise, steps, text, 1.0)
    wanted = by_autograd(model, output, latents, noise, steps, text)
    assert wanted.abs().max() > 0
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_the_fisher_and_the_unlearning_gradient_are_those_of_autograd(adopted, tmp_path):
    model, data = adopted.model, adopted.data
    settings = FactorSettings(draws=1, sampled=False)
    factors = fit_factors(model, data, settings, tmp_path)
    teacher = Abu(AbuSettings(target_change=None, alpha=0.1, gradient_draws=4, timesteps=1), factors=factors)
    teacher.fit(data, model)
    # A turn of the basis changes no length: the eigenvalues' sum is the mean squared gradient.
    from attributary_train.teacher.draws import LossGrid, query_draws

    grid = LossGrid.of(model, data, 1, draw=1_000)
    every = np.arange(len(data))
    steps = grid.timesteps.expand(len(data))
    text = data.text_at(torch.from_numpy(every), steps)
    rows = by_autograd(model, "loss", data.latents, grid.noise[:, 0], steps, text)
    mean = float(rows.square().sum(1).mean())
    assert sum(float(layer.eigenvalues.sum()) for layer in factors.layers.values()) == pytest.approx(
        mean, rel=1e-3
    )
    query = generate(model, [Prompt(PROMPTS[0], "seen", "train", 3)], 0, steps=2)
    found = teacher.gradient(query)
    ((noise, steps),) = query_draws(
        query.names[0], query.prompts[0], query.latents.shape[1:], model.timesteps, 4
    )
    many = [part.expand(4, *part.shape[1:]) for part in (query.latents, query.text)]
    wanted = by_autograd(model, "loss", many[0], noise, steps, many[1]).mean(0)
    mine = torch.cat([found[name].flatten() for name in module_names(model.unet, "cross_kv")])
    assert torch.allclose(mine, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))
    scores = teacher.score(query, data.ids)
    assert np.isfinite(scores).all() and np.ptp(scores) > 0


def test_queries_are_what_the_pipeline_itself_draws_and_are_kept_with_their_conditions(adopted, tmp_path):
    model, pipe = adopted.model, adopted.pipeline
    prompts = [Prompt(text, "seen", "train", 11 + at) for at, text in enumerate(PROMPTS[:2])]
    made = generate(model, prompts, 0, steps=3, guidance=2.0)
    side = made.latents.shape[-1] * (pipe.vae_scale_factor if adopted.name != "sana" else 4)
    start = torch.randn(made.latents.shape[1:], generator=torch.Generator().manual_seed(11))[None]
    more = {"use_resolution_binning": False} if adopted.name in ("sana", "pixart") else {}
    if adopted.name == "sana":
        more["complex_human_instruction"] = None
    if adopted.name == "flux":
        start = FluxPipeline._pack_latents(start, 1, *start.shape[1:])
    if adopted.name not in ("sdxl",):
        more["max_sequence_length"] = 24
    theirs = pipe(
        PROMPTS[0], num_inference_steps=3, guidance_scale=2.0, latents=start, output_type="latent", height=side,
        width=side, **more,
    ).images  # fmt: skip
    if adopted.name == "flux":
        factor = pipe.vae_scale_factor
        theirs = FluxPipeline._unpack_latents(theirs, side, side, factor)
    assert torch.allclose(made.latents[:1], theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    save_queries(made, tmp_path / "q.parquet")
    again = load_queries(tmp_path / "q.parquet", model)
    assert torch.equal(again.text, made.text) and torch.equal(again.latents, made.latents)
    assert again.keeps_text


def test_it_is_opened_again_and_a_changed_part_is_named(adopted, tmp_path):
    again = load_subject(adopted.folder)
    assert again.weights == adopted.model.weights and again.family is BY_NAME[adopted.name]
    assert torch.equal(again.token_states(PROMPTS, 0), adopted.model.token_states(PROMPTS, 0))
    assert adopted.data.latents.dtype == torch.float16 and adopted.data.text.dtype == torch.float16
    facts = json.loads((adopted.folder / "subject.json").read_text())
    assert facts["family"]["name"] == adopted.name
    part = BY_NAME[adopted.name].part
    made = inspect(adopted.root / "checkpoint", SIZES.get(adopted.name, SIZE))
    assert made.facts["recipe"]["latent_size"] == adopted.data.latents.shape[-1]
    config = adopted.root / "checkpoint" / "model_index.json"
    told = config.read_text()
    try:
        config.write_text(told.replace(json.loads(told)["_class_name"], "WanPipeline"))
        with pytest.raises(SubjectError, match="is a WanPipeline; understood are FluxPipeline, PixArt"):
            adopt(adopted.root / "checkpoint", adopted.corpus, tmp_path / "s", cache=tmp_path)
    finally:
        config.write_text(told)
    assert (adopted.folder / part).is_dir() and not (tmp_path / "s").exists()


def test_students_read_by_the_first_clip_encoder_or_by_minilm(adopted):
    words = words_of(adopted.model, adopted.data.text.shape[1])
    if adopted.name in ("sana", "pixart"):
        assert words.own is None
    else:
        states, mask = words.states(PROMPTS[:2]), words.mask(PROMPTS[:2])
        ids, _ = words.encode(PROMPTS[:2])
        with torch.inference_mode():
            found = words.tower().states(ids, mask)
        assert torch.allclose(found[mask > 0], states[mask > 0], atol=1e-5)
