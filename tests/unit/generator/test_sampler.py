"""The sampler without torch: the noise and the pictures are torch's."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attributary.errors import BundleError, InvalidArgumentError
from attributary.generator.sampler import Sampler, Wish, starting_noise

ROOT = Path(__file__).parents[3]
# torch.randn(2, 8, generator=torch.Generator().manual_seed(1609048014)), torch 2.13.
KNOWN = [
    -0.44811472, -1.37028003, -1.65052295, 0.61486447, -0.00162859, -3.50928617, 3.06320310, 2.12755322,
    -0.63748676, -2.18228817, -0.35343769, 1.00730717, 0.32237706, 1.01907206, 0.59798861, 0.44068524,
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    return tiny.write_generator(tmp_path_factory.mktemp("generator"))


def test_a_seed_is_the_noise_that_torch_draws():
    np.testing.assert_allclose(starting_noise(1609048014, (2, 8)).ravel(), KNOWN, atol=2e-6)
    with pytest.raises(ValueError, match="blocks of 16"):
        starting_noise(0, (3, 5))


def test_noise_is_torchs_for_every_seed():
    torch = pytest.importorskip("torch")
    for seed in (0, 1, 2**31 + 5, 2**32 - 1):
        want = torch.randn((8, 8, 8), generator=torch.Generator().manual_seed(seed)).numpy()
        np.testing.assert_allclose(starting_noise(seed, (8, 8, 8)), want, atol=3e-6)


def test_steps_are_those_of_diffusers(folder):
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    sampler, wish = Sampler(folder), Wish("a red ellipse", seed=5, steps=7, guidance=2.0)
    states = sampler._states(["", wish.prompt])
    scheduler.set_timesteps(wish.steps)
    x = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    for t in scheduler.timesteps:
        feed = {"latents": np.concatenate([x, x]), "timestep": np.full(2, int(t)), "states": states}
        free, bound = sampler._denoiser.run(["noise"], feed)[0]
        noise = torch.from_numpy(free + np.float32(2.0) * (bound - free))[None]
        x = scheduler.step(noise, t, x).prev_sample
    np.testing.assert_allclose(sampler.latents(wish), x.numpy(), atol=1e-4)


def test_progress_is_told_and_may_end_it(folder):
    told = []
    picture = Sampler(folder).picture(
        Wish("a red ellipse", steps=3), lambda done, of: told.append((done, of))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8 and picture.std() > 0

    def enough(_done, _of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sampler(folder).picture(Wish(""), enough)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("prompt", "x" * 4001),
        ("seed", -1),
        ("seed", 2**32),
        ("steps", 0),
        ("steps", 201),
        ("guidance", float("nan")),
    ],
)
def test_what_cannot_be_had_is_refused_by_field(field, given):
    with pytest.raises(InvalidArgumentError) as refused:
        Wish(**{"prompt": "", field: given})
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("generator.json", "{}"),
        ("generator.json", '{"schema_version": 1}'),
        ("text.onnx", "x"),
        ("tokenizer.json", "x"),
    ],
)
def test_a_damaged_folder_is_refused_by_file(tiny, tmp_path, name, text):
    tiny.write_generator(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(BundleError) as refused:
        Sampler(tmp_path)
    assert refused.value.file == name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_export_makes_the_committed_pictures_again(tmp_path):
    exporting = pytest.importorskip("attributary_train.subject.onnx_export", exc_type=ImportError)
    exporting.export_generator(ROOT / "models" / "subject-emoji", tmp_path)
    sampler = Sampler(tmp_path)
    queries = ROOT / "models" / "demo-queries"
    told = json.loads((queries / "queries.json").read_text())
    generated = [query for query in told["queries"] if query["generated"]]
    assert sampler.weights == told["weights"] and len(generated) == 10
    for query in generated:
        made = sampler.picture(Wish(query["prompt"], query["seed"], told["steps"], told["guidance"]))
        want = np.asarray(Image.open(queries / query["file"]).convert("RGB"))
        off = np.abs(made.astype(int) - want.astype(int))
        # torch sampled 32 at a time: rounding may move a level here and there.
        assert off.max() <= 2 and off.mean() < 0.01, query["prompt"]
