"""The data-set maker: plans once, keeps one single-threaded worker a core busy, and writes a manifest at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attributary.bundle.files import sha256
from attributary_train import jobs
from attributary_train.corpus import Corpus
from attributary_train.customization.choose import Choice, choose
from attributary_train.customization.exemplars import Exemplar, check_exemplars
from attributary_train.customization.maker_worker import failure
from attributary_train.customization.plan import (
    LOCKS,
    MANIFEST,
    PLAN,
    SHARDS,
    MakeSettings,
    Plan,
    with_prompts,
)
from attributary_train.customization.rows import prepare_rows
from attributary_train.customization.words import Words
from attributary_train.errors import CustomizationError
from attributary_train.files import write_text
from attributary_train.subject.checkpoint import load_autoencoder, load_subject
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.pictures import corpus_digest
from attributary_train.subject.prompts import BY_CREATOR

Log = Callable[[str], None]
# Tokens of a prompt where a checkpoint does not say: CLIP's.
_CLIP_TOKENS = 77


@dataclass(frozen=True)
class Job:
    """Where everything lies. `exemplars`: chosen ones, or None to have them chosen."""

    folder: Path
    subject: Path
    corpus: Path
    exemplars: tuple[Exemplar, ...] | None = None
    choice: Choice = field(default_factory=Choice)


def prepare(job: Job, settings: MakeSettings, log: Log) -> Plan:
    """Choose exemplars, plan prompts and prepare rows, unless the folder has them already.

    Raises `CustomizationError` if the folder was begun with other settings, another model or another corpus, if an
    exemplar's picture cannot be read, or if exemplars leak from split to split.
    """
    model, corpus = load_subject(job.subject), Corpus.open(job.corpus)
    known = known_items(model, corpus)
    chosen = list(job.exemplars) if job.exemplars is not None else choose(corpus, known, job.choice)
    check_exemplars(chosen, corpus)
    if not chosen:
        raise CustomizationError("exemplars", "there are none")
    names = _object_names(corpus, known, chosen)
    planned = with_prompts(chosen, names, settings)
    paths = {name: str(getattr(job, name).resolve()) for name in ("subject", "corpus")}
    plan = Plan(settings, model.weights, corpus_digest(corpus), paths, planned)
    if (job.folder / PLAN).exists():
        begun = Plan.read(job.folder)
        for name, value in plan.facts().items():
            if begun.facts()[name] != value:
                raise CustomizationError(
                    str(job.folder / PLAN), f"was begun with another value of {name}; choose another folder"
                )
        if begun.paths != paths:
            plan.write(job.folder)
        return plan
    for name in (SHARDS, LOCKS):
        (job.folder / name).mkdir(parents=True, exist_ok=True)
    log(f"preparing {len(planned)} exemplars")
    words = Words(job.subject, int(model.facts.get("recipe", {}).get("tokens", _CLIP_TOKENS)))
    others = {number for entry in planned for number in entry.exemplar.ids}
    rows = [number for number in known if number not in others]
    prepare_rows(job.folder, planned, rows, corpus, load_autoencoder(job.subject), words, settings)
    plan.write(job.folder)
    return plan


def known_items(model: SubjectModel, corpus: Corpus) -> list[int]:
    """Items the model was trained on, or 1,000 of the corpus where a checkpoint from elsewhere does not say."""
    if "training_set" in model.facts:
        ids = [int(number) for number in model.facts["training_set"]["ids"]]
        missing = [number for number in ids if number not in corpus]
        if missing:
            raise CustomizationError(
                str(corpus.root),
                f"lacks {len(missing)} items that the model was trained on, e.g. {missing[0]}",
            )
        return ids
    rows = np.random.default_rng(0).permutation(len(corpus))[:1000]
    return [corpus[int(row)].id for row in rows]


def _object_names(corpus: Corpus, known: Sequence[int], chosen: Sequence[Exemplar]) -> list[str]:
    """Captions of known concepts that no exemplar is of: what styles are drawn on."""
    taken = {corpus.item(number).concept_id for exemplar in chosen for number in exemplar.ids}
    items = [corpus.item(number) for number in known]
    own = [
        item for item in items if item.style_set not in BY_CREATOR and item.concept_id not in taken
    ] or items
    return sorted({item.caption for item in own})


def make(job: Job, settings: MakeSettings, *, workers: int = 2, log: Log = print) -> dict[str, Any]:
    """Make every shard of the plan that is missing, then the manifest, which is returned.

    May be killed at any moment and called again: the same bytes come out. An exemplar that fails is recorded, named
    and left out. Raises `CustomizationError` if a worker ends without such a reason.
    """
    CustomizationError.if_below(1, workers=workers)
    plan = prepare(job, settings, log)
    if left := _left(job.folder, plan):
        crew = jobs.Crew(
            "maker worker",
            "attributary_train.customization.maker_worker",
            (str(job.folder),),
            min(workers, len(left)),
            ("cpu",),
            logs=job.folder / LOCKS,
            pieces="exemplars",
            unit="exemplars",
            total=len(plan.planned),
            error=CustomizationError,
        )

        def missing() -> int:
            return len(_left(job.folder, plan))

        jobs.supervise(crew, lambda: len(plan.planned) - missing(), missing, log)
    return finish(job.folder, plan, log)


def finish(folder: Path, plan: Plan, log: Log) -> dict[str, Any]:
    """Write manifest.json: what was made with what, and the hash of every shard."""
    failed = {e.name: reason for e in plan.planned if (reason := failure(folder, e.name)) is not None}
    for name, reason in failed.items():
        log(f"failed: {name}: {reason}")
    made = [entry for entry in plan.planned if entry.name not in failed]
    counts = Counter(
        f"{e.exemplar.kind} {e.exemplar.split} {'seen' if e.exemplar.seen else 'unseen'}" for e in made
    )
    manifest = {
        **{name: value for name, value in plan.facts().items() if name != "exemplars"},
        "counts": dict(sorted(counts.items())),
        "pictures": sum(len(entry.prompts) for entry in made),
        "failed": failed,
        "shards": {entry.name: sha256(plan.shard(folder, entry)) for entry in made},
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n", CustomizationError)
    return manifest


def _left(folder: Path, plan: Plan) -> list[str]:
    return [
        entry.name
        for entry in plan.planned
        if not plan.shard(folder, entry).exists() and failure(folder, entry.name) is None
    ]
