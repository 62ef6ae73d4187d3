"""From a corpus to a finished checkpoint: autoencoder, latents, U-Net, manifest, pictures; resumable."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from attributary_train.corpus import Corpus
from attributary_train.errors import SubjectError
from attributary_train.files import reading, writing
from attributary_train.generators.latents import decode
from attributary_train.subject.autoencoder import is_finished, train_autoencoder
from attributary_train.subject.checkpoint import (
    BASE,
    forget_path,
    load_autoencoder,
    open_unet,
    save_subject,
    starting_from,
)
from attributary_train.subject.data import SubjectData, load_data
from attributary_train.subject.model import SubjectModel, new_scheduler, new_unet
from attributary_train.subject.parts import open_part
from attributary_train.subject.pictures import corpus_digest, squares
from attributary_train.subject.pictures_out import save_curve, save_grid
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.sample import sample
from attributary_train.subject.train import Run, mean_loss, train_unet
from attributary_train.towers.weights import weights_digest

Log = Callable[[str], None]
# Pictures in a row of the sample grid.
SHOWN = 12


def ready_autoencoder(
    recipe: Recipe, corpus: Corpus, work: Path, cache: Path, log: Log, device: str = "cpu"
) -> AutoencoderKL:
    """The trained autoencoder in `work`/autoencoder, trained on the whole corpus if it is not there yet.

    Raises `SubjectError` if the one that is there is of another recipe or corpus, or is damaged.
    """
    folder, digest = work / "autoencoder", corpus_digest(corpus)
    if not is_finished(folder, recipe, digest):
        pictures = squares(corpus, recipe.image_size, cache)
        train_autoencoder(recipe, pictures, folder, corpus=digest, log=log, device=device)
    return open_part(AutoencoderKL, folder).eval().requires_grad_(False).to(device)


def checked_device(name: str) -> str:
    """Raises `SubjectError` if torch does not know the device or has none of its kind."""
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise SubjectError("device", f"{name!r} is not one of torch's") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise SubjectError("device", f"{name!r}, but torch sees no GPU")
    return name


def fitting_autoencoder(folder: Path, recipe: Recipe) -> AutoencoderKL:
    """The autoencoder of a checkpoint; raises `SubjectError` if its latents are not what the recipe's U-Net takes."""
    found = load_autoencoder(folder)
    shape_wanted = (recipe.image_size, recipe.latent_channels)
    has = (int(found.config.sample_size), int(found.config.latent_channels))
    if has != shape_wanted:
        raise SubjectError(
            str(folder), f"its autoencoder has (pixels, channels) {has}; the recipe asks for {shape_wanted}"
        )
    return found


def on_base(recipe: Recipe, data: SubjectData, base: Path, copy_to: Path) -> tuple[Recipe, SubjectData]:
    """Recipe and data of a run that starts from the U-Net of the checkpoint `base`, which is copied to `copy_to`.

    Raises `SubjectError` if that U-Net has another shape.
    """
    unet = open_unet(base)
    wanted = {name: value.shape for name, value in new_unet(recipe).state_dict().items()}
    if wanted != {name: value.shape for name, value in unet.state_dict().items()}:
        raise SubjectError(str(base), f"its U-Net is not of the shape of recipe {recipe.name!r}")
    digest = weights_digest(unet)
    with writing(copy_to, SubjectError):
        unet.half().save_pretrained(copy_to)
    forget_path(copy_to / "config.json")
    return dataclasses.replace(recipe, base=digest), starting_from(data, copy_to, digest)


def train_subject(
    recipe: Recipe,
    corpus: Corpus,
    train_ids: Sequence[int],
    held_out_ids: Sequence[int],
    out: Path,
    *,
    unseen_ids: Sequence[int] = (),
    cache: Path,
    command: str,
    log: Log = print,
    device: str = "cpu",
    base: Path | None = None,
    autoencoder_of: Path | None = None,
) -> SubjectModel:
    """Train on the items `train_ids`; report the loss on `held_out_ids` (may be empty) beside it, to show memorisation.

    `unseen_ids` are only noted, as items of concepts that queries may ask for without the model knowing them. `device`
    trains and encodes; what is reported on the way is measured on the CPU. `base`: a checkpoint that training goes on
    from, whose U-Net is kept beside the result. `autoencoder_of`: a checkpoint whose autoencoder is taken instead of
    training one; that of `base` by default.

    Writes the checkpoint to `out`, with curve.png, samples.png (training pictures above what the model makes of their
    prompts) and progress.json, all renewed while it trains.
    """
    device, donor = checked_device(device), autoencoder_of or base
    if donor is None:
        autoencoder = ready_autoencoder(recipe, corpus, out / "work", cache, log, device)
    else:
        autoencoder = fitting_autoencoder(donor, recipe).to(device)
    data = load_data(corpus, train_ids, recipe, autoencoder, cache)
    if base is not None:
        recipe, data = on_base(recipe, data, base, out / BASE)
    held_out = load_data(corpus, held_out_ids, recipe, autoencoder, cache) if held_out_ids else None
    run = Run(recipe, np.ones(len(data), bool), recipe.seed, recipe.seed)
    progress: list[dict[str, float]] = []
    if (out / "progress.json").exists() and (out / "work" / "training-state.pt").exists():
        with reading(out / "progress.json", SubjectError):
            progress = json.loads((out / "progress.json").read_text())

    def watch(step: int, ema: UNet2DConditionModel, loss: float) -> None:
        unet = ema if device == "cpu" else copy.deepcopy(ema).cpu()
        model = SubjectModel(unet, new_scheduler(recipe), "", {})
        some = data.select(np.sort(np.random.default_rng(0).permutation(len(data))[:200]))
        entry = {"step": step, "running_loss": loss, "train_loss": mean_loss(model, some)}
        if held_out is not None:
            entry["held_out_loss"] = mean_loss(model, held_out)
        progress[:] = [old for old in progress if old["step"] < step] + [entry]
        with writing(out / "progress.json", SubjectError):
            (out / "progress.json").write_text(json.dumps(progress, indent=1) + "\n")
        names = [name for name in ("running_loss", "train_loss", "held_out_loss") if name in entry]
        save_curve(out / "curve.png", {name: [(e["step"], e[name]) for e in progress] for name in names})
        save_samples(out / "samples.png", model, data, autoencoder, held_out)
        log(
            ", ".join(
                f"{name} {value:.4f}" if name != "step" else f"step {value:.0f}"
                for name, value in entry.items()
            )
        )

    with writing(out, SubjectError):
        out.mkdir(parents=True, exist_ok=True)
        unet = train_unet(
            run,
            data,
            state_dir=out / "work",
            # A look costs thousands of passes: few where training goes on from a base and is short.
            save_every=max(1, recipe.steps // (2 if recipe.base else 8)),
            log=log,
            on_step=watch,
            device=device,
        )
    autoencoder.cpu()
    facts = {
        "seed": recipe.seed,
        "command": command,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **({} if device == "cpu" else {"device": device}),
        "losses": progress[-1],
        "corpus": {"items": len(corpus)},
        "held_out": [int(number) for number in held_out_ids],
        "unseen": [int(number) for number in unseen_ids],
    }
    model = save_subject(out, unet, autoencoder, new_scheduler(recipe), recipe, data, facts)
    (out / "work" / "training-state.pt").unlink(missing_ok=True)
    return model


def save_samples(
    path: Path,
    model: SubjectModel,
    data: SubjectData,
    autoencoder: AutoencoderKL,
    held_out: SubjectData | None,
) -> None:
    """Rows: training pictures, samples of their prompts; then the same for prompts that were left out."""
    rows, titles = [], []
    for title, part in (("seen", data), ("left out", held_out)):
        if part is None or not len(part):
            continue
        some = part.select(np.linspace(0, len(part) - 1, min(SHOWN, len(part))).astype(np.int64))
        made = sample(model, some.text, some.empty, range(len(some)))
        rows += [decode(autoencoder, some.latents), decode(autoencoder, made)]
        titles += [f"{title}:\nthe corpus\n(decoded latent)", f"{title}:\nthe model's\nsample"]
    save_grid(path, rows, titles)
