"""From a corpus to a finished checkpoint: autoencoder, latents, U-Net, manifest, pictures; resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from attributary_train.corpus import Corpus
from attributary_train.subject.autoencoder import decode, train_autoencoder
from attributary_train.subject.checkpoint import save_subject
from attributary_train.subject.data import SubjectData, load_data
from attributary_train.subject.model import SubjectModel, new_scheduler
from attributary_train.subject.pictures import squares
from attributary_train.subject.pictures_out import save_curve, save_grid
from attributary_train.subject.recipe import Recipe
from attributary_train.subject.sample import sample
from attributary_train.subject.train import Run, finished, mean_loss, train_unet

Log = Callable[[str], None]
# Pictures in a row of the sample grid.
SHOWN = 12


def ready_autoencoder(recipe: Recipe, corpus: Corpus, work: Path, cache: Path, log: Log) -> AutoencoderKL:
    """The trained autoencoder in `work`/autoencoder, trained on the whole corpus if it is not there yet."""
    folder = work / "autoencoder"
    if not (folder / "config.json").exists():
        train_autoencoder(recipe, squares(corpus, recipe.image_size, cache), folder, log=log)
    return AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)


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
) -> SubjectModel:
    """Train on the items `train_ids`; report the loss on `held_out_ids` (may be empty) beside it, to show memorisation.

    `unseen_ids` are only noted, as items of concepts that queries may ask for without the model knowing them.

    Writes the checkpoint to `out`, with curve.png, samples.png (training pictures above what the model makes of their
    prompts) and progress.json, all renewed while it trains.
    """
    autoencoder = ready_autoencoder(recipe, corpus, out / "work", cache, log)
    data = load_data(corpus, train_ids, recipe, autoencoder, cache)
    held_out = load_data(corpus, held_out_ids, recipe, autoencoder, cache) if held_out_ids else None
    run = Run(recipe, np.ones(len(data), bool), recipe.seed, recipe.seed)
    progress: list[dict[str, float]] = []
    if (out / "progress.json").exists() and (out / "work" / "training-state.pt").exists():
        progress = json.loads((out / "progress.json").read_text())

    def watch(step: int, ema: UNet2DConditionModel, loss: float) -> None:
        model = SubjectModel(ema, new_scheduler(recipe), "", {})
        some = data.select(np.sort(np.random.default_rng(0).permutation(len(data))[:200]))
        entry = {"step": step, "running_loss": loss, "train_loss": mean_loss(model, some)}
        if held_out is not None:
            entry["held_out_loss"] = mean_loss(model, held_out)
        progress[:] = [old for old in progress if old["step"] < step] + [entry]
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

    out.mkdir(parents=True, exist_ok=True)
    unet = train_unet(
        run, data, state_dir=out / "work", save_every=max(1, recipe.steps // 8), log=log, on_step=watch
    )
    facts = {
        "seed": recipe.seed,
        "command": command,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
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


def model_from(unet: UNet2DConditionModel, recipe: Recipe) -> SubjectModel:
    """Wrap a retrained U-Net."""
    return finished(unet, recipe, {})
