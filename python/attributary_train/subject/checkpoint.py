"""A subject model on disk: diffusers' pipeline layout, with a manifest that pins what it was trained on.

<folder>/unet, vae, scheduler, tokenizer, [text_encoder], model_index.json, subject.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers import __version__ as diffusers_version
from safetensors import SafetensorError

from attributary_train.corpus import Corpus
from attributary_train.subject.data import SubjectData, load_data, weights_digest
from attributary_train.subject.errors import SubjectError
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.text import text_encoder, tokenizer

MANIFEST = "subject.json"
SCHEMA_VERSION = 1


def save_subject(
    folder: Path,
    unet: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
    scheduler: DDIMScheduler,
    recipe: Recipe,
    data: SubjectData,
    facts: dict[str, Any],
    *,
    with_text_encoder: bool = False,
) -> SubjectModel:
    """Write fp16 weights and the manifest; the weights' hash is that of the fp16 values, which is what is loaded again.

    MiniLM (90 MB) comes with an installed package and is only written when asked for; with it the folder opens in
    `diffusers.StableDiffusionPipeline.from_pretrained` as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unet.half().save_pretrained(folder / "unet")
    unet.float()
    autoencoder.half().save_pretrained(folder / "vae")
    autoencoder.float()
    for name in ("unet", "vae"):
        _forget_path(folder / name / "config.json")
    scheduler.save_pretrained(folder / "scheduler")
    tokenizer(recipe.tokens).save_pretrained(folder / "tokenizer")
    if with_text_encoder:
        text_encoder().save_pretrained(folder / "text_encoder")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers_version,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "BertModel"],
        "tokenizer": ["transformers", type(tokenizer(recipe.tokens)).__name__],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
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
    return load_subject(folder)


def _forget_path(path: Path) -> None:
    # diffusers notes where a part was loaded from: a folder of this machine, of no use to anybody else.
    values = json.loads(path.read_text())
    values.pop("_name_or_path", None)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _part(kind: Any, folder: Path, name: str) -> Any:
    try:
        return kind.from_pretrained(folder / name, torch_dtype=torch.float32)
    except (OSError, ValueError, SafetensorError) as error:
        raise SubjectError(str(folder / name), f"not a readable {kind.__name__}: {error}") from error


def load_subject(folder: Path) -> SubjectModel:
    """Open a checkpoint of ours or any Stable-Diffusion-style directory.

    Raises `SubjectError` if the U-Net has no cross-attention to text, or if a manifest is there and its hash differs.
    """
    unet = _part(UNet2DConditionModel, folder, "unet")
    if not cross_attention(unet):
        raise SubjectError(str(folder / "unet"), "has no attn2.to_k or attn2.to_v: not conditioned on text")
    scheduler = DDIMScheduler.from_config(_part(DDIMScheduler, folder, "scheduler").config)
    weights, facts = weights_digest(unet), {}
    if (folder / MANIFEST).exists():
        facts = read_manifest(folder)
        if facts["weights"] != weights:
            raise SubjectError(
                str(folder / "unet"), f"hash {weights[:12]} is not the manifest's {facts['weights'][:12]}"
            )
    return SubjectModel(unet.eval().requires_grad_(False), scheduler, weights, facts)


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """Open the autoencoder of a checkpoint, float32, in evaluation mode."""
    return _part(AutoencoderKL, folder, "vae").eval().requires_grad_(False)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises `SubjectError` naming what is missing."""
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        if facts["schema_version"] != SCHEMA_VERSION:
            raise SubjectError(
                str(folder / MANIFEST),
                f"schema version {facts['schema_version']}; this reads {SCHEMA_VERSION}",
            )
        for name in ("recipe", "weights", "training_set"):
            _ = facts[name]
    except (OSError, ValueError, KeyError) as error:
        raise SubjectError(str(folder / MANIFEST), f"not readable: {error!r}") from error
    return facts


def recipe_of(model: SubjectModel) -> Recipe:
    """The recipe in a model's manifest."""
    if "recipe" not in model.facts:
        raise SubjectError(
            "subject.json", "is missing: a checkpoint from elsewhere has no recipe to retrain with"
        )
    return Recipe.from_json(model.facts["recipe"])


def training_data(model: SubjectModel, folder: Path, corpus: Corpus, cache: Path) -> SubjectData:
    """The very data the model was trained on; raises `SubjectError` if the corpus is another one."""
    facts = model.facts["training_set"]
    data = load_data(corpus, facts["ids"], recipe_of(model), load_autoencoder(folder), cache)
    if data.digest != facts["digest"]:
        raise SubjectError(
            str(corpus.root),
            f"holds other pictures or captions (digest {data.digest[:12]}) than the model saw ({facts['digest'][:12]})",
        )
    return data


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


def as_mask(data: SubjectData, removed: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mask bool [N] that keeps everything but the ids `removed`."""
    mask = np.ones(len(data), bool)
    mask[data.rows(removed)] = False
    return mask
