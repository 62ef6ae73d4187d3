"""`attributary-train evaluate halves`: retrain on random halves and keep what that does to every query."""

from __future__ import annotations

import json
from pathlib import Path

import click

from attributary_train.console import FILE, OUT_FOLDER, on_threads
from attributary_train.errors import EvaluationError
from attributary_train.files import write_text

from .options import MODEL, QUERY_FILE, say


@click.command("halves")
@MODEL
@QUERY_FILE
@click.option(
    "--out", type=OUT_FOLDER, required=True, help="Folder of the losses; a run that was ended goes on."
)
@click.option(
    "--work", type=OUT_FOLDER, default=Path("out/halves"), show_default=True, help="Weights, locks."
)
@click.option("--pairs", default=64, show_default=True, help="Of complementary halves.")
@click.option(
    "--second", default=32, show_default=True, help="Halves that are trained with another seed too."
)
@click.option("--whole", default=4, show_default=True, help="Models of all items with other seeds.")
@click.option(
    "--creators", is_flag=True, help="Also leave out each creator of 8 to 20 items, with two seeds."
)
@click.option(
    "--by-creator",
    default=0,
    show_default=True,
    help="Pairs of halves that hold whole creators, trained before the others.",
)
@click.option(
    "--left-out",
    type=FILE,
    multiple=True,
    help="Score file of a method whose best items are left out, group by group; repeat. Trained before the others.",
)
@click.option("--left-out-split", default="test", show_default=True, help="Whose queries they are.")
@click.option("--groups", default=6, show_default=True, help="Of queries that lose their items together.")
@click.option("--group-size", default=10, show_default=True, help="Queries in a group.")
@click.option("--top", default=10, show_default=True, help="Items that each query loses.")
@click.option("--seed", default=0, show_default=True, help="Of the halves.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option(
    "--together", default=1, show_default=True, help="Models trained side by side; 16 or more on a GPU."
)
@click.option("--minutes", type=float, help="Begin no training after so long.")
@on_threads
def halves(
    subject_dir: Path,
    corpus_dir: Path,
    cache: Path,
    query_file: Path,
    out: Path,
    work: Path,
    pairs: int,
    second: int,
    whole: int,
    creators: bool,
    by_creator: int,
    left_out: tuple[Path, ...],
    left_out_split: str,
    groups: int,
    group_size: int,
    top: int,
    seed: int,
    device: str,
    together: int,
    minutes: float | None,
) -> None:
    """Train models on complementary halves of the items; write each query's loss under every one of them.

    Several of these commands may work on the same folders at a time.
    """
    import time

    from ..subject.queries import load_queries
    from ..subject.run import checked_device
    from . import half_plan
    from .halves import GRIDS, Truth, train_halves, write_masks
    from .left_out import FILE as FILE_OF_GROUPS
    from .left_out import kept_without, query_groups, write_groups
    from .opening import Subject
    from .world import describe

    subject = Subject.open(subject_dir, corpus_dir, cache)
    queries = load_queries(query_file, subject.model)
    masks = half_plan.half_masks(len(subject.data), pairs, seed)
    hands = [subject.corpus.item(int(number)).creator for number in subject.data.ids]
    names = half_plan.creators_of(hands, 8, 20)
    describe(subject, queries, query_file, out)
    plan: list[half_plan.Half] = []
    if by_creator:
        sides = half_plan.creator_masks(hands, by_creator, seed)
        write_masks(out / "plan-creators.npz", sides, subject.data.ids)
        plan += half_plan.plan_by_creator(subject.recipe, sides)
    if left_out:
        asked = queries.split(left_out_split)
        sets = query_groups(asked.prompts, groups, group_size, seed)
        kept = {name: kept_without(s, sets, top) for name, s in subject.scores(left_out, asked).items()}
        names_of = [[asked.names[at] for at in group] for group in sets]
        counts = {name: [int((~mask).sum()) for mask in masks_of] for name, masks_of in kept.items()}
        write_groups(out / FILE_OF_GROUPS, left_out_split, top, names_of, counts)
        plan += half_plan.plan_without(subject.recipe, kept)
    plan += half_plan.plan_halves(subject.recipe, masks, second, whole)
    if creators:
        plan += half_plan.plan_creators(subject.recipe, hands, names)
    truth = Truth(out, work, queries, subject.data.ids, masks)
    grids = {split: [grid.timesteps, grid.draws] for split, grid in GRIDS.items()}
    facts = {"pairs": pairs, "second": second, "whole": whole, "seed": seed, "grid": grids}
    facts |= {"weights": subject.model.weights, "recipe": subject.recipe.to_json(), "creators": names}
    write_text(out / "truth.json", json.dumps(facts, indent=1) + "\n", EvaluationError)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    added = train_halves(
        truth,
        plan,
        subject.data,
        work,
        device=checked_device(device),
        together=together,
        until=lambda: end is not None and time.monotonic() > end,
        say=say,
    )
    left = sum(not truth.done(half.name) for half in plan)
    click.echo(f"{out}: {added} trainings added, {left} of {len(plan)} left")
