"""A pipeline of any family, or a LoRA on one, as a subject: its own parts, and the corpus that it was trained on."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import __version__ as diffusers_version

from attributary_train.corpus import Corpus
from attributary_train.errors import SubjectError
from attributary_train.files import writing
from attributary_train.subject.checkpoint import load_subject, write_manifest
from attributary_train.subject.data import load_data
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.own_text import OwnText, open_text
from attributary_train.subject.own_text import text_digest as clip_digest
from attributary_train.subject.recipe import ADOPTED, AutoencoderRecipe, Recipe

from .conditions import Layout
from .families import BY_PIPELINE
from .family import Family
from .latents import factor_of
from .lora import FILE, FOLDER, attach_lora, lora_file
from .opening import training_schedule
from .reader import PipelineText, open_parts, pipeline_class, text_digest, text_side


@dataclasses.dataclass(frozen=True)
class Found:
    """What a checkpoint was found to be."""

    family: Family
    pipeline: Any
    recipe: Recipe
    layout: Layout
    factor: int


def family_of(checkpoint: Path) -> Family:
    """By the class in model_index.json; raises `SubjectError` naming one that is not understood."""
    name = pipeline_class(checkpoint)
    if name not in BY_PIPELINE:
        raise SubjectError(str(checkpoint), f"is a {name}; understood are {', '.join(sorted(BY_PIPELINE))}")
    return BY_PIPELINE[name]


def inspect_pipeline(checkpoint: Path, image_size: int | None = None, lora: Path | None = None) -> Found:
    """Open every part and see that they fit; raises `SubjectError` naming the one that does not."""
    family = family_of(checkpoint)
    pipeline = open_parts(checkpoint, ())
    training_schedule(checkpoint / "scheduler", family)
    module, vae = getattr(pipeline, family.part), pipeline.vae
    for name, part in ((family.part, module), ("vae", vae), ("text_encoder", pipeline.text_encoder)):
        if part is None:
            raise SubjectError(str(checkpoint / name), "not found")
    if type(vae).__name__ != family.autoencoder:
        raise SubjectError(str(checkpoint / "vae"), f"is a {type(vae).__name__}, not a {family.autoencoder}")
    for name in ("latents_mean", "latents_std"):
        if vae.config.get(name) is not None:
            raise SubjectError(
                f"vae.{name}", "is given; only latents with a factor and a shift are understood"
            )
    channels, factor = int(vae.config.latent_channels), factor_of(vae)
    takes = int(module.config.in_channels) // (4 if family.name == "flux" else 1)
    if takes != channels:
        raise SubjectError(
            f"{family.part}.in_channels", f"{takes}; the autoencoder's latents have {channels}"
        )
    size = _image_size(module, family, factor, image_size)
    if lora is not None:
        attach_lora(module, family, lora_file(lora))
    layout = Layout.of(family.read(pipeline, ["a picture"]))
    recipe = Recipe(
        name=ADOPTED,
        image_size=size,
        latent_size=size // factor,
        latent_channels=channels,
        widths=(0,),
        attention=(True,),
        text_dim=layout.dim,
        tokens=layout.tokens,
        autoencoder=AutoencoderRecipe(widths=(), latent_channels=channels),
    )
    module.pixels_a_latent = factor
    return Found(family, pipeline, recipe, layout, factor)


def adopt_pipeline(
    checkpoint: Path,
    corpus: Corpus,
    out: Path,
    *,
    cache: Path,
    image_size: int | None = None,
    lora: Path | None = None,
    subset: bool = False,
    command: str = "",
    log: Callable[[str], None] = print,
) -> SubjectModel:
    """As `subject.adopt.adopt`; `lora`: a file or folder of low-rank weights that the corpus was used to train."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SubjectError(str(out), "is there already and not empty; choose another folder")
    found = inspect_pipeline(checkpoint, image_size, lora)
    family, pipeline = found.family, found.pipeline
    module = getattr(pipeline, family.part).eval().requires_grad_(False)
    part = out.with_name(out.name + ".part")
    with writing(out, SubjectError):
        shutil.rmtree(part, ignore_errors=True)
        _save(checkpoint, pipeline, family, part, lora)
    clip = _clip(part)
    text = PipelineText(part, family, found.layout, text_digest(text_side(part, family)), clip)
    data = load_data(corpus, [item.id for item in corpus], found.recipe, pipeline.vae, cache, text)
    log(
        f"{family.name}: {len(data)} items encoded: latents {list(data.latents.shape[1:])}, "
        f"text {list(data.text.shape[1:])}"
    )
    facts = {
        "command": command,
        "family": {
            "name": family.name, "pixels_a_latent": found.factor, "lora": lora is not None,
        },
        "text": {
            "layout": dataclasses.asdict(found.layout),
            "digest": text.digest,
            "clip": None if clip is None else {"tokens": clip.tokens, "digest": clip.digest},
            "prompt": "caption",
        },
        "adopted": {
            "whole_training_set": not subset,
            "pipeline": type(pipeline).__name__,
            "scheduler": type(pipeline.scheduler).__name__,
            "diffusers": diffusers_version,
        },
        "corpus": {"items": len(corpus)},
        "held_out": [],
        "unseen": [],
    }  # fmt: skip
    with writing(out, SubjectError):
        write_manifest(part, module, pipeline.vae, found.recipe, data, facts)
        part.replace(out)
    return load_subject(out)


def _save(checkpoint: Path, pipeline: Any, family: Family, part: Path, lora: Path | None) -> None:
    """The pipeline as it was opened; a LoRA beside the denoiser that it is on, which is copied as it came."""
    if lora is None:
        pipeline.save_pretrained(part)
        return
    module = getattr(pipeline, family.part)
    module.unload_lora()
    pipeline.save_pretrained(part)
    (part / FOLDER).mkdir()
    shutil.copyfile(lora_file(lora), part / FOLDER / FILE)
    attach_lora(module, family, part / FOLDER / FILE)


def _clip(folder: Path) -> OwnText | None:
    """The first text encoder, if it is a CLIP one: what students read by."""
    try:
        encoder, cut = open_text(folder)
    except SubjectError:
        return None
    tokens = min(int(cut.model_max_length), int(encoder.config.max_position_embeddings))
    return OwnText(folder, tokens, clip_digest(encoder, cut))


def _image_size(module: Any, family: Family, factor: int, wanted: int | None) -> int:
    """Pixels of a side: as asked, else what the denoiser was made for."""
    if wanted is None:
        made_for = module.config.get("sample_size")
        if not isinstance(made_for, int):
            raise SubjectError(
                "image_size",
                f"the {family.part} does not say what it was made for ({made_for!r}); give --image-size",
            )
        wanted = made_for * factor
    patch = 2 if family.name == "flux" else int(module.config.get("patch_size") or 1)
    # Sana's pipeline takes no others.
    least = math.lcm(factor * patch, 32 if family.name == "sana" else 1)
    if wanted < least or wanted % least:
        raise SubjectError("image_size", f"{wanted}; must be a multiple of {least}")
    return wanted
