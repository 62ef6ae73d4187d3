"""A checkpoint that was trained elsewhere, as a subject: its own parts, and the corpus it was trained on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers import __version__ as diffusers_version

from attributary_train.corpus import Corpus
from attributary_train.corpus.raster import IMAGE_SIZE
from attributary_train.errors import SubjectError
from attributary_train.files import reading, writing
from attributary_train.generators.families import STABLE
from attributary_train.generators.reader import pipeline_class
from attributary_train.subject.checkpoint import (
    load_autoencoder,
    load_subject,
    open_unet,
    write_index,
    write_manifest,
)
from attributary_train.subject.data import load_data
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.own_text import ENCODER, TOKENIZER, OwnText, open_text, text_digest
from attributary_train.subject.recipe import ADOPTED, AutoencoderRecipe, Recipe

PREDICTIONS = ("epsilon", "v_prediction")
# A U-Net with one of these is conditioned on more than text: nothing here would give it that.
_FURTHER_INPUTS = (
    "addition_embed_type",
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)
# An autoencoder with one of these scales its latents by more than a factor.
_FURTHER_SCALES = ("shift_factor", "latents_mean", "latents_std")


def adopt(
    checkpoint: Path,
    corpus: Corpus,
    out: Path,
    *,
    cache: Path,
    image_size: int | None = None,
    subset: bool = False,
    lora: Path | None = None,
    command: str = "",
    log: Callable[[str], None] = print,
) -> SubjectModel:
    """Write a subject folder from a diffusers directory and the items of a corpus it was trained on.

    `lora`: a file, or the folder of one, of low-rank weights that the corpus was used to train on the checkpoint. What
    is no plain Stable Diffusion goes to `generators.adopting`, by the pipeline's class.

    Pictures are encoded by its own autoencoder at `image_size` pixels (by default what the U-Net's sample size stands
    for), captions by its own text encoder. Weights are written as float32, so that none changes. `subset`: the
    corpus is only a part of the training set. The folder appears whole or not at all. Raises `SubjectError` naming the
    part that is missing, does not fit the others, or is of a kind that is not understood.
    """
    if lora is not None or _is_another(checkpoint):
        from attributary_train.generators.adopting import adopt_pipeline

        return adopt_pipeline(
            checkpoint, corpus, out, cache=cache, image_size=image_size, lora=lora, subset=subset, command=command,
            log=log,
        )  # fmt: skip
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SubjectError(str(out), "is there already and not empty; choose another folder")
    scheduler, trained_with = _schedule(checkpoint / "scheduler")
    unet, autoencoder = open_unet(checkpoint), load_autoencoder(checkpoint)
    encoder, cut = open_text(checkpoint)
    tokens = min(int(cut.model_max_length), int(encoder.config.max_position_embeddings))
    recipe = _recipe(unet, autoencoder, scheduler, int(encoder.config.hidden_size), tokens, image_size)
    # What is sampled has this size, and so has what it is decoded to.
    unet.register_to_config(sample_size=recipe.latent_size)
    autoencoder.register_to_config(sample_size=recipe.image_size)
    small = sum(not corpus.is_own(item.id) for item in corpus)
    if small and recipe.image_size > IMAGE_SIZE:
        log(
            f"{small} drawings of the corpus have {IMAGE_SIZE} pixels and are enlarged to {recipe.image_size}"
        )
    text = OwnText(checkpoint, tokens, text_digest(encoder, cut))
    data = load_data(corpus, [item.id for item in corpus], recipe, autoencoder, cache, text)
    log(
        f"{len(data)} items encoded: latents {list(data.latents.shape[1:])}, text {list(data.text.shape[1:])}"
    )
    facts = {
        "command": command,
        "text": {
            "encoder": type(encoder).__name__,
            "tokens": tokens,
            "digest": text.digest,
            "prompt": "caption",
        },
        "adopted": {
            "whole_training_set": not subset,
            "scheduler": trained_with,
            "diffusers": diffusers_version,
        },
        "corpus": {"items": len(corpus)},
        "held_out": [],
        "unseen": [],
    }
    part = out.with_name(out.name + ".part")
    with writing(out, SubjectError):
        shutil.rmtree(part, ignore_errors=True)
        unet.save_pretrained(part / "unet")
        autoencoder.save_pretrained(part / "vae")
        encoder.save_pretrained(part / ENCODER)
        cut.save_pretrained(part / TOKENIZER)
        write_index(part, scheduler, type(encoder).__name__, type(cut).__name__)
        write_manifest(part, unet, autoencoder, recipe, data, facts)
        part.replace(out)
    return load_subject(out)


def inspect(checkpoint: Path, image_size: int | None = None, lora: Path | None = None) -> SubjectModel:
    """A checkpoint in memory, with its recipe in `facts`, not adopted; raises `SubjectError` for what `adopt` would
    refuse."""
    if lora is not None or _is_another(checkpoint):
        from attributary_train.generators.adopting import inspect_pipeline
        from attributary_train.generators.opening import training_schedule

        found = inspect_pipeline(checkpoint, image_size, lora)
        scheduler: Any = training_schedule(checkpoint / "scheduler", found.family)
        module = getattr(found.pipeline, found.family.part)
        facts = {"recipe": found.recipe.to_json()}
        return SubjectModel(module, scheduler, "", facts, None, found.family, found.layout, checkpoint)
    plain, _ = _schedule(checkpoint / "scheduler")
    unet, autoencoder = open_unet(checkpoint), load_autoencoder(checkpoint)
    encoder, cut = open_text(checkpoint)
    tokens = min(int(cut.model_max_length), int(encoder.config.max_position_embeddings))
    recipe = _recipe(unet, autoencoder, plain, int(encoder.config.hidden_size), tokens, image_size)
    return SubjectModel(unet, plain, "", {"recipe": recipe.to_json()})


def _is_another(checkpoint: Path) -> bool:
    """Whether a checkpoint names a pipeline that is not plain Stable Diffusion."""
    if not (checkpoint / "model_index.json").is_file():
        return False
    return pipeline_class(checkpoint) not in STABLE.pipelines


def _schedule(folder: Path) -> tuple[DDIMScheduler, str]:
    """DDIM over the checkpoint's noise schedule, and the class of the scheduler that it came with."""
    with reading(folder, SubjectError, "not a readable scheduler"):
        values: dict[str, Any] = dict(DDIMScheduler.load_config(folder, local_files_only=True))
    name = str(values.get("_class_name"))
    if "beta_start" not in values and values.get("trained_betas") is None:
        raise SubjectError(
            str(folder), f"{name} has no betas; only models of discrete noise levels are understood"
        )
    kind = values.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise SubjectError(
            "scheduler.prediction_type", f"{kind!r}; {' or '.join(PREDICTIONS)} are understood"
        )
    # Schedulers that never clip leave the word out; DDIM would then clip latents as if they were pixels.
    values.setdefault("clip_sample", False)
    try:
        return DDIMScheduler.from_config(values), name
    except (ValueError, TypeError, NotImplementedError) as error:
        raise SubjectError(str(folder), f"not a schedule that DDIM understands: {error}") from error


def _recipe(
    unet: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
    scheduler: DDIMScheduler,
    dim: int,
    tokens: int,
    image_size: int | None,
) -> Recipe:
    """What is known of a checkpoint, in a recipe's words; raises `SubjectError` where its parts do not fit."""
    config, pixels = unet.config, autoencoder.config
    for part, names in ((config, _FURTHER_INPUTS), (pixels, _FURTHER_SCALES)):
        for name in names:
            if getattr(part, name, None) is not None:
                which = "unet" if part is config else "vae"
                raise SubjectError(
                    f"{which}.{name}", f"{getattr(part, name)!r}; only models without are understood"
                )
    channels = int(pixels.latent_channels)
    for name in ("in_channels", "out_channels"):
        if config[name] != channels:
            raise SubjectError(f"unet.{name}", f"{config[name]}; the autoencoder's latents have {channels}")
    if config.cross_attention_dim != dim:
        raise SubjectError(
            "unet.cross_attention_dim", f"{config.cross_attention_dim}; the text encoder's states have {dim}"
        )
    factor = 2 ** (len(pixels.block_out_channels) - 1)
    if image_size is None:
        if not isinstance(config.sample_size, int):
            raise SubjectError(
                "image_size", f"the U-Net's sample_size is {config.sample_size!r}; give --image-size"
            )
        image_size = config.sample_size * factor
    if image_size < factor or image_size % factor:
        raise SubjectError("image_size", f"{image_size}; must be a multiple of {factor}")
    return Recipe(
        name=ADOPTED,
        image_size=image_size,
        latent_size=image_size // factor,
        latent_channels=channels,
        widths=tuple(config.block_out_channels),
        attention=tuple("CrossAttn" in block for block in config.down_block_types),
        text_dim=dim,
        tokens=tokens,
        timesteps=int(scheduler.config.num_train_timesteps),
        beta_schedule=scheduler.config.beta_schedule,
        beta_start=scheduler.config.beta_start,
        beta_end=scheduler.config.beta_end,
        autoencoder=AutoencoderRecipe(widths=tuple(pixels.block_out_channels), latent_channels=channels),
    )
