"""A subject folder that was adopted from a pipeline of any family, opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from attributary_train.errors import SubjectError
from attributary_train.files import reading
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.own_text import OwnText
from attributary_train.subject.parts import open_part
from attributary_train.towers.weights import weights_digest

from .conditions import Layout
from .families import BY_NAME
from .family import Family
from .latents import factor_of
from .lora import FILE, FOLDER, attach_lora
from .reader import PipelineText


def open_adopted(folder: Path, facts: dict[str, Any]) -> SubjectModel:
    """Raises `SubjectError` if a part is damaged or not what the manifest says."""
    with reading(folder, SubjectError, "its manifest is not readable"):
        family, text_facts = BY_NAME[facts["family"]["name"]], facts["text"]
        layout = Layout.from_json(text_facts["layout"])
        factor = int(facts["family"]["pixels_a_latent"])
        clip = (
            None
            if text_facts["clip"] is None
            else OwnText(folder, int(text_facts["clip"]["tokens"]), text_facts["clip"]["digest"])
        )
        text = PipelineText(folder, family, layout, str(text_facts["digest"]), clip)
    module = open_denoiser(folder, family, factor)
    if facts["family"]["lora"]:
        attach_lora(module, family, folder / FOLDER / FILE)
    module.eval().requires_grad_(False)
    weights = weights_digest(module)
    if weights != facts["weights"]:
        raise SubjectError(
            str(folder / family.part), f"hash {weights[:12]} is not the manifest's {facts['weights'][:12]}"
        )
    scheduler: Any = training_schedule(folder / "scheduler", family)
    return SubjectModel(module, scheduler, weights, facts, text, family, layout, folder)


def open_denoiser(folder: Path, family: Family, factor: int) -> Any:
    """The denoiser, float32; `factor`: pixels of a latent's side, which some are told of."""
    module = open_part(getattr(diffusers, family.model), folder / family.part)
    module.pixels_a_latent = factor
    return module


def autoencoder_of(folder: Path, facts: dict[str, Any]) -> Any:
    """The autoencoder, float32, in evaluation mode; it knows the size of the pictures."""
    family = BY_NAME[facts["family"]["name"]]
    found = open_part(getattr(diffusers, family.autoencoder), folder / "vae").eval().requires_grad_(False)
    found.register_to_config(sample_size=int(facts["recipe"]["image_size"]))
    if factor_of(found) != int(facts["family"]["pixels_a_latent"]):
        raise SubjectError(str(folder / "vae"), "its latents have another size than the manifest says")
    return found


def training_schedule(folder: Path, family: Family) -> Any:
    """The schedule that a family is trained with, over the numbers of the checkpoint's own.

    Raises `SubjectError` naming what is not understood.
    """
    try:
        if family.flow:
            return FlowMatchEulerDiscreteScheduler.from_pretrained(folder, local_files_only=True)
        values: dict[str, Any] = dict(DDIMScheduler.load_config(folder, local_files_only=True))
        if "beta_start" not in values and values.get("trained_betas") is None:
            raise SubjectError(str(folder), f"{values.get('_class_name')} has no betas")
        # Schedulers that never clip leave the word out; DDIM would then clip latents as if they were pixels.
        values.setdefault("clip_sample", False)
        made = DDIMScheduler.from_config(values)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise SubjectError(str(folder), f"not a readable schedule: {error}") from error
    kind = made.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise SubjectError("scheduler.prediction_type", f"{kind!r}; epsilon or v_prediction are understood")
    return made
