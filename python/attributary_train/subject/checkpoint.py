"""A subject model on disk: diffusers' pipeline layout, with a manifest that pins what it was trained on.

<folder>/unet, vae, scheduler, tokenizer, [text_encoder of an adopted one], model_index.json, subject.json
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers import __version__ as diffusers_version

from attributary_train.corpus import Corpus
from attributary_train.errors import SubjectError
from attributary_train.files import reading, writing
from attributary_train.subject.data import SubjectData, load_data
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.own_text import OwnText
from attributary_train.subject.parts import open_part
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.text import text_encoder, tokenizer
from attributary_train.towers.weights import weights_digest

MANIFEST = "subject.json"
# The U-Net that the training of a model in two stages starts from.
BASE = "base"
SCHEMA_VERSION = 1


def save_subject(
    folder: Path,
    unet: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
    scheduler: DDIMScheduler,
    recipe: Recipe,
    data: SubjectData,
    facts: dict[str, Any],
) -> SubjectModel:
    """Write fp16 weights and the manifest; the weights' hash is that of the fp16 values, which is what is loaded again.

    MiniLM (90 MB) comes with an installed package and is not written; `open_pipeline` adds it. Raises `SubjectError` if
    a file cannot be written.
    """
    with writing(folder, SubjectError):
        unet.half().save_pretrained(folder / "unet")
        unet.float()
        autoencoder.half().save_pretrained(folder / "vae")
        autoencoder.float()
        cut = tokenizer(recipe.tokens)
        cut.save_pretrained(folder / "tokenizer")
        write_index(folder, scheduler, "BertModel", type(cut).__name__)
        write_manifest(folder, unet, autoencoder, recipe, data, facts)
    return load_subject(folder)


def write_index(folder: Path, scheduler: DDIMScheduler, encoder: str, cut: str) -> None:
    """Write the schedule and model_index.json, which names the classes of the text encoder and the tokenizer."""
    scheduler.save_pretrained(folder / "scheduler")
    for name in ("unet", "vae", "text_encoder"):
        if (folder / name).exists():
            forget_path(folder / name / "config.json")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers_version,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", encoder],
        "tokenizer": ["transformers", cut],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_manifest(
    folder: Path,
    unet: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
    recipe: Recipe,
    data: SubjectData,
    facts: dict[str, Any],
) -> None:
    """Write subject.json: recipe, hashes of the weights as they were written, training set, and further `facts`."""
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe.to_json(),
        "weights": weights_digest(unet),
        "autoencoder_weights": weights_digest(autoencoder),
        "training_set": {
            "digest": data.digest,
            "count": len(data),
            "ids": [int(number) for number in data.ids],
        },
        **facts,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest) + "\n")


def forget_path(path: Path) -> None:
    """Drop where diffusers says that a part was loaded from: a folder of this machine, of no use to anybody else."""
    values = json.loads(path.read_text())
    values.pop("_name_or_path", None)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _scheduler(folder: Path) -> DDIMScheduler:
    try:
        return DDIMScheduler.from_config(DDIMScheduler.load_config(folder, local_files_only=True))
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise SubjectError(str(folder), f"not a readable DDIMScheduler: {error}") from error


def load_subject(folder: Path) -> SubjectModel:
    """Open a checkpoint of ours or any Stable-Diffusion-style directory.

    Raises `SubjectError` if the U-Net has no cross-attention to text, or if a manifest is there and its hash differs.
    """
    if (folder / MANIFEST).exists() and "family" in (facts := read_manifest(folder)):
        from attributary_train.generators.opening import open_adopted

        return open_adopted(folder, facts)
    unet = open_unet(folder)
    scheduler = _scheduler(folder / "scheduler")
    weights, text = weights_digest(unet), None
    facts = {}
    if (folder / MANIFEST).exists():
        facts = read_manifest(folder)
        if facts["weights"] != weights:
            raise SubjectError(
                str(folder / "unet"), f"hash {weights[:12]} is not the manifest's {facts['weights'][:12]}"
            )
        text = own_text(folder, facts)
    return SubjectModel(unet.eval().requires_grad_(False), scheduler, weights, facts, text)


def open_unet(folder: Path) -> UNet2DConditionModel:
    """The U-Net of a checkpoint, float32; raises `SubjectError` if it has no cross-attention to text."""
    unet: UNet2DConditionModel = open_part(UNet2DConditionModel, folder / "unet")
    if not cross_attention(unet):
        raise SubjectError(str(folder / "unet"), "has no attn2.to_k or attn2.to_v: not conditioned on text")
    return unet


def own_text(folder: Path, facts: dict[str, Any]) -> OwnText | None:
    """The text encoder that a manifest names, None for MiniLM."""
    if "text" not in facts:
        return None
    with reading(folder / MANIFEST, SubjectError, "text: not readable"):
        return OwnText(folder, int(facts["text"]["tokens"]), str(facts["text"]["digest"]))


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """Open the autoencoder of a checkpoint, float32, in evaluation mode."""
    if (folder / MANIFEST).exists() and "family" in (facts := read_manifest(folder)):
        from attributary_train.generators.opening import autoencoder_of

        return autoencoder_of(folder, facts)
    return open_part(AutoencoderKL, folder / "vae").eval().requires_grad_(False)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises `SubjectError` naming what is missing."""
    with reading(folder / MANIFEST, SubjectError):
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        if facts["schema_version"] != SCHEMA_VERSION:
            raise SubjectError(
                str(folder / MANIFEST),
                f"schema version {facts['schema_version']}; this reads {SCHEMA_VERSION}",
            )
        for name in ("recipe", "weights", "training_set"):
            _ = facts[name]
    return facts


def recipe_of(model: SubjectModel) -> Recipe:
    """The recipe in a model's manifest."""
    if "recipe" not in model.facts:
        raise SubjectError(
            MANIFEST,
            "is missing: what this checkpoint was trained on is not known; `attributary-train subject adopt` says it",
        )
    return Recipe.from_json(model.facts["recipe"])


def training_data(model: SubjectModel, folder: Path, corpus: Corpus, cache: Path) -> SubjectData:
    """The very data the model was trained on; raises `SubjectError` if the corpus is another one."""
    recipe = recipe_of(model)
    facts = model.facts["training_set"]
    data = load_data(corpus, facts["ids"], recipe, load_autoencoder(folder), cache, model.text)
    if recipe.base:
        data = starting_from(data, folder / BASE, recipe.base)
    if data.digest != facts["digest"]:
        raise SubjectError(
            str(corpus.root),
            f"holds other pictures or captions (digest {data.digest[:12]}) than the model saw ({facts['digest'][:12]})",
        )
    return data


def starting_from(data: SubjectData, folder: Path, digest: str) -> SubjectData:
    """The data with the weights in `folder` to start from; raises `SubjectError` if their hash is another."""
    unet = open_part(UNet2DConditionModel, folder)
    found = weights_digest(unet)
    if found != digest:
        raise SubjectError(str(folder), f"hash {found[:12]} is not the recipe's {digest[:12]}")
    return replace(data, start={name: value.float() for name, value in unet.state_dict().items()})


def cross_attention(unet: torch.nn.Module) -> list[str]:
    """Names of the modules whose weights unlearning moves: keys and values of cross-attention."""
    return [name for name, _ in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]


def open_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The checkpoint as diffusers' own pipeline, with MiniLM and its tokenizer from their package where it has none."""
    extra: dict[str, Any] = {}
    if not (folder / "text_encoder").exists():
        extra["text_encoder"] = text_encoder()
    if not (folder / "tokenizer").exists():
        extra["tokenizer"] = tokenizer(int(read_manifest(folder)["recipe"]["tokens"]))
    return StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, **extra)
