"""`attributary-train subject ...`: the generator under study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from attributary_train.console import FILE, FOLDER, OUT, OUT_FOLDER, clear_errors, on_threads


@click.group("subject")
def subject() -> None:
    """Train or adopt, open and sample the text-to-image model that is attributed."""


@subject.command("train")
@click.option(
    "--preset",
    default="small",
    show_default=True,
    help="tiny, small (the reference model), coco, scratch, photographs; in two stages, pretrain and then finetune.",
)
@click.option("--corpus", "corpus_dir", type=FOLDER, required=True, help="Corpus to learn from.")
@click.option(
    "--out",
    type=OUT_FOLDER,
    required=True,
    help="Folder of the checkpoint; an interrupted run goes on from it.",
)
@click.option("--cache", type=OUT_FOLDER, default=Path("out/cache/subject"), show_default=True)
@click.option(
    "--all-items", is_flag=True, help="Train on the whole corpus instead of the preset's selection."
)
@click.option("--base", type=FOLDER, help="Checkpoint to go on from; its autoencoder is kept.")
@click.option(
    "--autoencoder",
    "autoencoder_of",
    type=FOLDER,
    help="Checkpoint whose autoencoder is taken, not trained.",
)
@click.option("--captions", help="Levels of captions with their shares, e.g. concept=0.25,category=0.75.")
@click.option("--steps", type=int, help="Override the preset's number of steps.")
@click.option("--seed", type=int, help="Override the preset's seed.")
@click.option(
    "--threads", default=1, show_default=True, help="Cores; with one, a run is repeatable to the bit."
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda; trains and encodes.")
@on_threads
def train(
    corpus_dir: Path,
    out: Path,
    cache: Path,
    preset: str,
    all_items: bool,
    device: str,
    base: Path | None,
    autoencoder_of: Path | None,
    captions: str | None,
    **changes: Any,
) -> None:
    """Train autoencoder and U-Net; writes diffusers' pipeline layout with a manifest, a loss curve and samples."""
    from attributary_train.corpus import Corpus
    from attributary_train.subject.recipe import levels_of
    from attributary_train.subject.recipe import preset as find
    from attributary_train.subject.reference import Selection
    from attributary_train.subject.run import train_subject
    from attributary_train.subject.selection import select

    given = {name: value for name, value in changes.items() if value is not None}
    if captions is not None:
        given["captions"] = levels_of(captions)
    recipe = dataclasses.replace(find(preset), **given)
    corpus = Corpus.open(corpus_dir)
    chosen = Selection(tuple(item.id for item in corpus)) if all_items else select(corpus, recipe.items)
    words = f"attributary-train subject train --preset {preset}" + (" --all-items" if all_items else "")
    settings_given = {**given, "captions": captions, "base": base, "autoencoder": autoencoder_of}
    words += "".join(f" --{name} {value}" for name, value in settings_given.items() if value is not None)
    model = train_subject(
        recipe,
        corpus,
        chosen.train,
        chosen.recombined,
        out,
        unseen_ids=chosen.unseen,
        cache=cache,
        command=words,
        log=click.echo,
        device=device,
        base=base,
        autoencoder_of=autoencoder_of,
    )
    click.echo(f"{out}: model {model.weights[:12]}, {len(chosen.train)} items")


@subject.command("adopt")
@click.option(
    "--checkpoint",
    type=FOLDER,
    required=True,
    help="Diffusers directory: Stable Diffusion, SDXL, SD3, Flux, Sana, PixArt.",
)
@click.option(
    "--lora",
    type=click.Path(exists=True, path_type=Path),
    help="LoRA on it (a file, or the folder a training script wrote) that the corpus was used to train.",
)
@click.option("--corpus", "corpus_dir", type=FOLDER, required=True, help="What it was trained on.")
@click.option("--out", type=OUT_FOLDER, required=True, help="Subject folder to write; must not exist.")
@click.option("--cache", type=OUT_FOLDER, default=Path("out/cache/subject"), show_default=True)
@click.option("--image-size", type=int, help="Pixels of a side; by default what the U-Net was made for.")
@click.option("--subset", is_flag=True, help="The corpus is only a part of what it was trained on.")
@click.option("--threads", default=1, show_default=True)
@on_threads
def adopt(
    checkpoint: Path,
    corpus_dir: Path,
    out: Path,
    cache: Path,
    image_size: int | None,
    subset: bool,
    lora: Path | None,
) -> None:
    """Make a subject of a checkpoint that was trained elsewhere, with its own autoencoder and text encoder."""
    from attributary_train.corpus import Corpus
    from attributary_train.subject.adopt import adopt as take

    words = "attributary-train subject adopt" + (f" --image-size {image_size}" if image_size else "")
    words += (" --subset" if subset else "") + (f" --lora {lora}" if lora else "")
    corpus = Corpus.open(corpus_dir)
    model = take(
        checkpoint,
        corpus,
        out,
        cache=cache,
        image_size=image_size,
        subset=subset,
        lora=lora,
        command=words,
        log=click.echo,
    )
    click.echo(f"{out}: model {model.weights[:12]}, {len(corpus)} items")


@subject.command("queries")
@click.option("--subject", "subject_dir", type=FOLDER, required=True, help="Checkpoint.")
@click.option("--corpus", "corpus_dir", type=FOLDER, required=True)
@click.option("--out", type=OUT, required=True, help="Parquet file to write.")
@click.option("--train", default=1000, show_default=True, help="Queries that students learn from.")
@click.option("--validation", default=100, show_default=True)
@click.option("--test", default=100, show_default=True)
@click.option("--steps", default=30, show_default=True, help="DDIM steps.")
@click.option("--guidance", default=3.0, show_default=True, help="Classifier-free guidance.")
@click.option("--seed", default=0, show_default=True)
@click.option("--cache", type=OUT_FOLDER, default=Path("out/cache/subject"), show_default=True)
@click.option(
    "--prompts",
    "prompt_file",
    type=FILE,
    help="Prompts of your own in place of captions: a text file of lines, or CSV or Parquet with a column prompt, as "
    "logs have.",
)
@click.option("--no-drawings", is_flag=True, help="Generated pictures alone, as labels to fit shares to.")
@on_threads
def queries(
    subject_dir: Path,
    corpus_dir: Path,
    out: Path,
    steps: int,
    guidance: float,
    seed: int,
    cache: Path,
    prompt_file: Path | None,
    no_drawings: bool,
    **counts: int,
) -> None:
    """Generate query images of three kinds (seen, recombined, unseen prompts), no prompt in two splits.

    For a model with captions of several levels: of each level, and without a prompt; held-out drawings join validation
    and test.
    """
    from attributary_train.corpus import Corpus
    from attributary_train.errors import SubjectError
    from attributary_train.subject.checkpoint import load_autoencoder, load_subject, recipe_of, training_data
    from attributary_train.subject.data import load_data
    from attributary_train.subject.level_queries import drawing_queries, level_prompts
    from attributary_train.subject.own_prompts import own_prompts
    from attributary_train.subject.prompts import training_prompt
    from attributary_train.subject.prompts_split import query_prompts
    from attributary_train.subject.queries import generate, save_queries

    model = load_subject(subject_dir)
    corpus = Corpus.open(corpus_dir)
    tokens = recipe_of(model).tokens
    ids, unseen = model.facts["training_set"]["ids"], model.facts.get("unseen", [])
    missing = [number for number in [*ids, *unseen] if number not in corpus]
    if missing:
        raise SubjectError(
            str(corpus_dir), f"lacks {len(missing)} items that the model knows of, e.g. {missing[0]}"
        )
    recipe, own = recipe_of(model), model.text is not None
    if prompt_file is not None:
        known = {item.caption if own else training_prompt(item) for item in map(corpus.item, ids)}
        prompts = own_prompts(prompt_file, known, counts, seed=seed)
        made = generate(model, prompts, tokens, steps=steps, guidance=guidance)
    elif recipe.captions:
        data = training_data(model, subject_dir, corpus, cache)
        assert data.captions is not None
        prompts = level_prompts(data.captions, counts, seed=seed)
        made = generate(model, prompts, tokens, steps=steps, guidance=guidance)
        held = [] if no_drawings else [*model.facts["held_out"], *unseen]
        if held:
            drawings = load_data(corpus, held, recipe, load_autoencoder(subject_dir), cache)
            made = drawing_queries(model, drawings, made, seed=seed)
    else:
        prompts = query_prompts(corpus, ids, unseen, counts, seed=seed, plain=own)
        made = generate(model, prompts, tokens, steps=steps, guidance=guidance)
    save_queries(made, out)
    click.echo(f"{out}: {len(made)} queries")


@subject.command("export")
@click.argument("subject_dir", type=FOLDER)
@click.option(
    "--out", type=OUT_FOLDER, required=True, help="Folder to write: about 95 MB, most of it MiniLM."
)
@on_threads
def export(subject_dir: Path, out: Path) -> None:
    """Write the model as ONNX files, for samplers without torch: `attributary serve --ui --ui-generator OUT`."""
    from attributary_train.subject.onnx_export import export_generator

    facts = export_generator(subject_dir, out)
    click.echo(f"{out}: model {facts['weights'][:12]}")


@subject.command("show")
@click.argument("subject_dir", type=FOLDER)
@clear_errors()
def show(subject_dir: Path) -> None:
    """Print a checkpoint's facts."""
    import json

    from attributary_train.subject.checkpoint import load_subject

    model = load_subject(subject_dir)
    facts = {name: value for name, value in model.facts.items() if name not in ("training_set", "held_out")}
    facts["parameters"] = sum(p.numel() for p in model.unet.parameters())
    facts["training_items"] = model.facts.get("training_set", {}).get("count")
    click.echo(json.dumps(facts, indent=2))
