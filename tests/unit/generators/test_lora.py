"""A LoRA on a checkpoint: its own weights are what is looked at, and the model is the pipeline with it loaded."""

import shutil

import numpy as np
import pytest
import torch

from attributary_train.errors import SubjectError
from attributary_train.generators.tiny import tiny_pipeline
from attributary_train.subject.adopt import adopt
from attributary_train.subject.checkpoint import load_subject, training_data
from attributary_train.subject.queries import Prompt, generate
from attributary_train.teacher.abu import Abu, AbuSettings
from attributary_train.teacher.ekfac import FactorSettings
from attributary_train.teacher.parameters import module_names
from tests.unit.generators.conftest import SIZE

peft = pytest.importorskip("peft")
PROMPTS = ["a red ellipse", "two blue squares"]


@pytest.fixture(scope="module", params=["stable-diffusion", "sd3"])
def tuned(request, drawings, tmp_path_factory):
    """(folder with checkpoint and lora, pipeline that has it, name of its denoiser)"""
    root = tmp_path_factory.mktemp("lora")
    pipe = tiny_pipeline(request.param, image_size=SIZE, words=[item.caption for item in drawings])
    pipe.save_pretrained(root / "checkpoint")
    part = "unet" if request.param == "stable-diffusion" else "transformer"
    module = getattr(pipe, part)
    targets = ["to_k", "to_v"] if part == "unet" else ["add_k_proj", "to_q"]
    module.add_adapter(peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False))
    layers = peft.get_peft_model_state_dict(module)
    # Half as many ranks as the scale says: a loader that forgets the scale is off by two.
    about = {f"{part}_lora_adapter_metadata": module.peft_config["default"].to_dict()}
    type(pipe).save_lora_weights(root / "lora", **{f"{part}_lora_layers": layers}, **about)
    return root, pipe, part


def test_the_loras_own_weights_are_moved_and_the_model_is_the_pipelines(tuned, drawings, tmp_path):
    root, pipe, part = tuned
    folder = tmp_path / "subject"
    adopt(
        root / "checkpoint", drawings, folder, cache=tmp_path / "cache", image_size=SIZE, lora=root / "lora",
        log=lambda line: None,
    )  # fmt: skip
    model = load_subject(folder)
    names = module_names(model.unet, "cross_kv")
    assert names == module_names(model.unet, "all") and all("lora_" in name for name in names)
    assert {name.rsplit(".", 1)[0].rsplit(".", 1)[1] for name in names} == {"lora_A", "lora_B"}
    data = training_data(model, folder, drawings, tmp_path / "cache")
    noisy, steps = torch.randn(2, *data.latents.shape[1:]), torch.tensor([4, 800])
    text = model.token_states(PROMPTS, 0)
    with torch.no_grad():
        ours = model.answers(noisy, steps, text)
        theirs = model.answers(noisy, steps, text, getattr(pipe, part))
        plain = model.answers(noisy, steps, text, without(root, part))
    assert torch.allclose(ours, theirs, atol=1e-5) and not torch.allclose(ours, plain, atol=1e-3)
    teacher = Abu(
        AbuSettings(
            fisher="diagonal", target_change=None, alpha=0.01, gradient_draws=4, timesteps=1,
            factors=FactorSettings(draws=1, backend="torch"),
        )
    )  # fmt: skip
    teacher.fit(data, model)
    query = generate(model, [Prompt(PROMPTS[0], "seen", "train", 1)], 0, steps=2)
    assert set(teacher.gradient(query)) == set(names)
    scores = teacher.score(query, data.ids)
    assert np.isfinite(scores).all() and np.ptp(scores) > 0


def without(root, part):
    from diffusers import DiffusionPipeline

    return getattr(DiffusionPipeline.from_pretrained(root / "checkpoint"), part)


def test_a_lora_that_does_not_fit_or_changes_more_is_refused_by_name(tuned, drawings, tmp_path):
    root, pipe, part = tuned

    def take(lora):
        with pytest.raises(SubjectError) as said:
            adopt(root / "checkpoint", drawings, tmp_path / "s", cache=tmp_path, image_size=SIZE, lora=lora)
        assert not (tmp_path / "s").exists()
        return str(said.value)

    (tmp_path / "empty").mkdir()
    assert "holds no pytorch_lora_weights.safetensors" in take(tmp_path / "empty")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    assert "torn.safetensors: is no LoRA of this" in take(tmp_path / "torn.safetensors")
    pipe.text_encoder.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    layers = peft.get_peft_model_state_dict(pipe.text_encoder)
    denoiser = peft.get_peft_model_state_dict(getattr(pipe, part))
    type(pipe).save_lora_weights(
        tmp_path / "both", text_encoder_lora_layers=layers, **{f"{part}_lora_layers": denoiser}
    )
    assert "also changes text_encoder" in take(tmp_path / "both")
    shutil.rmtree(tmp_path / "both")
