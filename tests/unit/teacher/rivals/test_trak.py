"""TRAK, D-TRAK and JourneyTRAK against a dense reference and against traker."""

import dataclasses

import numpy as np
import pytest
import torch

from attributary_train.errors import TeacherError
from attributary_train.subject.noise import noise_for, noise_key
from attributary_train.subject.sample import sample
from attributary_train.teacher.draws import query_draws
from attributary_train.teacher.dtrak import DTrak
from attributary_train.teacher.gradients import GradientPass, GradientSettings
from attributary_train.teacher.journey_trak import JourneyTrak, journey
from attributary_train.teacher.projection import Flat, Whole
from attributary_train.teacher.trak import Trak, choose_damping, kernel_weights, mean_eigenvalue

KV = GradientSettings(timesteps=2, mirrored=False, query_draws=4, batch=64)


def features(model, data, settings, projection):
    passing = GradientPass(model, settings, projection)
    return torch.cat([part for _, part in passing.of_items(data, np.arange(len(data)))])


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_the_kernel_is_the_dense_inverse_on_either_side(shape):
    phi = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    ridge = 0.3 * mean_eigenvalue(phi)
    dense = phi.double() @ torch.linalg.inv(
        phi.double().T @ phi.double() + ridge * torch.eye(shape[1], dtype=torch.float64)
    )
    torch.testing.assert_close(kernel_weights(phi, 0.3), dense.float(), rtol=1e-5, atol=1e-7)
    eigenvalues = torch.linalg.eigvalsh(phi.double().T @ phi.double())
    assert mean_eigenvalue(phi) == pytest.approx(float(eigenvalues[eigenvalues > 1e-6].mean()), rel=1e-5)


def test_a_kernel_without_damping_on_too_few_items_is_an_error():
    with pytest.raises(TeacherError, match=r"damping: 0.0; the kernel is singular"):
        kernel_weights(torch.ones(4, 3), 0.0)


@pytest.mark.parametrize(("kind", "output"), [(Trak, "loss"), (DTrak, "square")])
def test_scores_are_those_of_the_dense_formula(kind, output, model, data, queries):
    settings = dataclasses.replace(KV, output=output)
    method = kind(settings, Flat(12), 0.2)
    method.fit(data, model)
    scores = method.score(queries, data.ids)
    phi = features(model, data, settings, Flat(12)).double()
    asked = GradientPass(model, settings, Flat(12)).of_queries(queries).double()
    ridge = 0.2 * mean_eigenvalue(phi)
    wanted = (asked @ torch.linalg.inv(phi.T @ phi + ridge * torch.eye(12).double()) @ phi.T).numpy()
    wanted *= mean_eigenvalue(phi) / len(phi)
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    assert scores.dtype == np.float32
    cost = method.cost
    assert (cost.candidates, cost.bytes_per_item, cost.forward_passes) == (18, 12 * 4, 4)


def test_an_item_is_the_most_influential_on_itself(model, data, queries):
    # Queries that are training items, under TRAK's own features: the kernel's diagonal leads its row.
    method = Trak(dataclasses.replace(KV, timesteps=10, query_draws=200), Whole(), 0.01)
    method.fit(data, model)
    rows = [2, 9, 12, 16]
    copies = dataclasses.replace(queries, latents=data.latents[rows], text=data.text[rows])
    assert method.score(copies, data.ids).argmax(axis=1).tolist() == rows


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_scores_agree_with_traker(model, data, queries, tmp_path):
    trak = pytest.importorskip("trak", reason="traker is not installed (make setup-train)")
    from trak.modelout_functions import AbstractModelOutput
    from trak.projectors import NoOpProjector

    names = [f"{name}.weight" for name in GradientPass(model, KV, Whole()).names]
    steps = [25, 75]

    class Denoising(AbstractModelOutput):
        def __init__(self):
            pass

        @staticmethod
        def get_output(unet, weights, buffers, latents, noise, times, signals, text):
            total = 0.0
            for column in range(len(times)):
                signal = signals[column]
                noised = signal.sqrt() * latents + (1 - signal).sqrt() * noise[column]
                answer = torch.func.functional_call(
                    unet, (weights, buffers), (noised[None], times[column][None], text[None])
                ).sample
                total = total + (answer[0] - noise[column]).square().mean()
            return total / len(times)

        def get_out_to_loss_grad(self, unet, weights, buffers, batch):
            return torch.ones(len(batch[0]), 1)

    def batch(latents, noise, times, text):
        return latents, noise, times, model.scheduler.alphas_cumprod[times], text

    keys = [noise_key(int(i), p) for i, p in zip(data.ids, data.prompts, strict=True)]
    noise = torch.stack(
        [torch.stack([torch.from_numpy(noise_for(k, s, (4, 4, 4))) for s in steps]) for k in keys]
    )
    train = batch(data.latents, noise, torch.tensor(steps).expand(len(data), -1), data.text)
    drawn = [
        next(query_draws(name, prompt, (4, 4, 4), model.timesteps, 4))
        for name, prompt in zip(queries.names, queries.prompts, strict=True)
    ]
    asked = batch(
        queries.latents,
        torch.stack([noise for noise, _ in drawn]),
        torch.stack([steps for _, steps in drawn]),
        queries.text,
    )
    width = GradientPass(model, KV, Whole()).total
    # traker divides features by sqrt(number of weights) before lambda is added.
    phi = features(model, data, KV, Whole())
    ridge = 0.5 * mean_eigenvalue(phi) / width
    traker = trak.TRAKer(
        model=model.unet,
        task=Denoising(),
        train_set_size=len(data),
        save_dir=str(tmp_path),
        device="cpu",
        projector=NoOpProjector(grad_dim=width, proj_dim=width, device="cpu"),
        use_half_precision=False,
        grad_wrt=names,
        lambda_reg=ridge,
        logging_level=50,
    )
    traker.load_checkpoint(model.unet.state_dict(), model_id=0)
    traker.featurize(train, num_samples=len(data))
    traker.finalize_features()
    traker.start_scoring_checkpoint(
        exp_name="toy", checkpoint=model.unet.state_dict(), model_id=0, num_targets=len(queries)
    )
    traker.score(asked, num_samples=len(queries))
    theirs = np.asarray(traker.finalize_scores(exp_name="toy")).T
    method = Trak(KV, Whole(), 0.5)
    method.fit(data, model)
    ours = method.score(queries, data.ids)
    # Their inverse is divided by its mean size: one factor for all.
    factor = float((ours * theirs).sum() / (theirs * theirs).sum())
    assert factor > 0
    np.testing.assert_allclose(ours, factor * theirs, atol=1e-3 * np.abs(ours).max())


def test_an_ensemble_is_the_mean_of_its_models(model, another_model, data, queries):
    alone = []
    for member in (model, another_model):
        method = Trak(KV, Flat(12), 0.2)
        method.fit(data, member)
        own = dataclasses.replace(queries, weights=member.weights)
        alone.append(method.score(own, data.ids))
    together = Trak(KV, Flat(12), 0.2, ensemble=[another_model])
    together.fit(data, model)
    np.testing.assert_allclose(
        together.score(queries, data.ids), np.mean(alone, axis=0), rtol=1e-4, atol=1e-8
    )
    assert together.cost.bytes_per_item == 2 * 12 * 4


def test_damping_is_chosen_on_queries_that_are_not_reported_on(model, data, queries):
    method = Trak(KV, Flat(12), 0.2)
    method.fit(data, model)
    seen = {}

    def judge(scores):
        seen[method.damping] = scores
        return -abs(method.damping - 1.0)

    assert choose_damping(method, [0.01, 1.0, 100.0], queries, data.ids, judge) == 1.0 == method.damping
    np.testing.assert_array_equal(method.score(queries, data.ids), seen[1.0])
    fresh = Trak(KV, Flat(12), 100.0)
    fresh.fit(data, model)
    np.testing.assert_allclose(fresh.score(queries, data.ids), seen[100.0], rtol=1e-5)
    with pytest.raises(TeacherError, match="hold test queries"):
        test = dataclasses.replace(queries, splits=("test", *queries.splits[1:]))
        choose_damping(method, [0.1], test, data.ids, judge)
    with pytest.raises(TeacherError, match="values: is empty"):
        choose_damping(method, [], queries, data.ids, judge)
    with pytest.raises(TeacherError, match="damping: -1"):
        method.damping = -1.0


@pytest.fixture(scope="module")
def generated(model, data, queries):
    latents = sample(model, queries.text, data.empty, queries.seeds, steps=5, guidance=3.0)
    return dataclasses.replace(queries, latents=latents)


def test_the_journey_ends_where_sampling_did(model, data, generated):
    expected, ends, step = journey(model, generated, data.empty, 40)
    assert torch.equal(ends, generated.latents)
    scheduler = model.scheduler
    scheduler.set_timesteps(5)
    assert step in scheduler.timesteps.tolist() and abs(step - 40) <= 10
    assert expected.shape == ends.shape and not torch.allclose(expected, ends)
    # One query alone takes the same way.
    one, _, _ = journey(model, generated.take([2]), data.empty, 40)
    assert torch.equal(one[0], expected[2])


def test_journey_trak_asks_about_the_expected_image_at_one_step(model, data, generated):
    settings = dataclasses.replace(KV, query_draws=6, batch=4)
    method = JourneyTrak(settings, Flat(12), 0.2, timestep=40)
    method.fit(data, model)
    scores = method.score(generated, data.ids)
    expected, _, step = journey(model, generated, data.empty, 40)
    row = 1
    key = noise_key(0, f"{generated.names[row]}\t{generated.prompts[row]}")
    noise = torch.stack([torch.from_numpy(noise_for(key, step, (4, 4, 4), draw)) for draw in range(6)])
    passing = GradientPass(model, settings, Flat(12))
    asked = passing.of_queries(
        generated.take([row]),
        lambda _: iter([(expected[row].expand(6, -1, -1, -1), noise, torch.full((6,), step))]),
    )
    phi = features(model, data, settings, Flat(12))
    wanted = asked @ kernel_weights(phi, 0.2).T * (mean_eigenvalue(phi) / len(phi))
    np.testing.assert_allclose(
        scores[row], wanted[0].numpy(), rtol=1e-3, atol=1e-4 * float(wanted.abs().max())
    )
    assert method.cost.forward_passes == 6 + 2 * generated.steps


def test_journey_trak_refuses_what_it_is_not_defined_for(model, data, generated):
    with pytest.raises(TeacherError, match="defined on the loss"):
        JourneyTrak(dataclasses.replace(KV, output="square"))
    method = JourneyTrak(KV, Flat(12), timestep=100)
    method.fit(data, model)
    with pytest.raises(TeacherError, match="timestep: 100; must be in 0 to 99"):
        method.score(generated, data.ids)
