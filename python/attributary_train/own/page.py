"""The page at the end of the road: what finds itself, whether the student agrees with its teacher, what a share is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.bundle.bundle import Bundle
from attributary.bundle.manifest import INT8_LEFT_OUT
from attributary_train.corpus import Corpus

from .plan import Plan
from .road import Request, Step
from .running import used_by

PAGE = "page.md"
_MOST = 500  # items asked for themselves
_TOP = 10
_NAMED = 5  # items that are named where they did not come first


@dataclass(frozen=True)
class Found:
    """Items asked for with their own file: shares of them at rank 1, and flagged; medians of cosine and share; keys of
    those that did not come first."""

    prompt: str
    asked: int
    first: float
    flagged: float
    cosine: float
    share: float
    missed: tuple[str, ...] = ()


def write_page(request: Request, steps: Sequence[Step], plan: Plan | None = None) -> Path:
    """Ask the bundle and write what it answers, and what was used, to `page.md` below the folder of the road."""
    engine = open_engine(request.bundle)
    manifest = engine.bundle.manifest
    lines = [f"# {request.out.name}", ""]
    lines += [
        f"{manifest.item_count:,} items by {manifest.creator_count:,} creators; bundle {manifest.bundle_id}, "
        f"encoder {manifest.encoder.name}, {manifest.encoder.dim} dimensions.",
        "",
    ]
    corpus = Corpus.open(request.out / "corpus")
    lines += ["## Does every item find itself?", ""]
    if request.checkpoint is not None:
        lines += [
            "An item's own picture is recognised and comes first, with a share like that of the best other. "
            "Whether the ranking of other pictures is right the agreement below says.",
            "",
        ]
    lines += [
        "| asked with | items | first | flagged | cosine, median | share, median |",
        "| - | - | - | - | - | - |",
    ]
    found = own_files(request, corpus)
    for row in found:
        lines.append(
            f"| {row.prompt} | {row.asked} | {row.first:.1%} | {row.flagged:.1%} | {row.cosine:.3f} | {row.share:.3f} |"
        )
    if missed := [f"{row.prompt}: {', '.join(row.missed[:_NAMED])}" for row in found if row.missed]:
        lines += ["", "Not first, for instance, with " + "; ".join(missed) + "."]
        lines += ["A picture whose central square has one colour alone is not recognised."]
    lines += ["", *(_agreement(request) if request.checkpoint is not None else [])]
    lines += ["## What a share means here", "", manifest.calibration.method, ""]
    lines += [_int8(engine.bundle), ""]
    lines += _used(request, plan) if plan is not None else []
    lines += ["## Ask it", "", f"    attributary serve {request.bundle}", "    attributary query PICTURE", ""]
    lines += ["## The road", "", *(f"    {step.command}" for step in steps), ""]
    path = request.out / PAGE
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _int8(bundle: Bundle) -> str:
    """Whether there is an int8 encoder that holds the golden queries, or why there is none; raises `BundleError`."""
    if bundle.int8_encoder_path is not None:
        open_engine(bundle.directory, precision="int8")
        return (
            "Its int8 encoder (`attributary serve --precision int8`) answers the golden queries as fp32 does."
        )
    why = bundle.manifest.notes.get(INT8_LEFT_OUT, "a student on the towers is exported in fp32 alone")
    return f"No int8 encoder: {why}."


def own_files(request: Request, corpus: Corpus) -> list[Found]:
    """Ask for items with their own bytes: alone, with their caption, with another's."""
    engine = open_engine(request.bundle, verify=False)
    items = [item for item in corpus if item.file]
    every = max(1, len(items) // _MOST)
    chosen = items[::every][:_MOST]
    found = []
    for kind in ("no prompt", "its caption", "another's caption"):
        rows, missed = [], []
        for at, item in enumerate(chosen):
            other = chosen[(at + len(chosen) // 2) % len(chosen)].caption
            prompt = {"no prompt": "", "its caption": item.caption}.get(kind, other)
            query = Query(image=(corpus.root / item.file).read_bytes(), prompt=prompt)
            answer = engine.attribute(query, Options(top_k=1))
            best = answer.items[0]
            # Of several items with one picture any may come first.
            first = corpus.item(best.id).sha256 == item.sha256
            missed += [] if first else [item.key]
            rows.append((first, answer.out_of_distribution, best.similarity, best.share))
        values = np.array(rows, np.float64)
        middle = np.median(values, axis=0)
        found.append(
            Found(
                kind,
                len(rows),
                float(values[:, 0].mean()),
                float(values[:, 1].mean()),
                float(middle[2]),
                float(middle[3]),
                tuple(missed),
            )
        )
    return found


def _used(request: Request, plan: Plan) -> list[str]:
    """Passes, core hours and gigabytes beside the plan."""
    used = used_by(request.out)
    size = sum(path.stat().st_size for path in request.out.rglob("*") if path.is_file())
    rows = (
        ("passes", plan.total, sum(step["passes"] for step in used.values()), ",.0f"),
        ("core hours", plan.core_hours, sum(step["core_seconds"] for step in used.values()) / 3600, ".3f"),
        ("gigabytes", plan.disk_gb, size / 1e9, ".3f"),
    )
    lines = ["## What it used", "", "| | planned | used | used / planned |", "| - | - | - | - |"]
    for name, planned, spent, form in rows:
        ratio = f"{spent / planned:.2f}" if planned else "-"
        lines.append(f"| {name} | {planned:{form}} | {spent:{form}} | {ratio} |")
    return [*lines, "", "A step that was stopped and went on counts from where it went on.", ""]


def _agreement(request: Request) -> list[str]:
    """The student beside its teacher on the test queries, which neither student nor calibration saw."""
    from attributary.building.student import read_student
    from attributary_train.calibration.held import StudentEncoder, open_held
    from attributary_train.errors import NoLabelError
    from attributary_train.evaluation.opening import Subject

    out = request.out
    subject = Subject.open(out / "subject", out / "corpus", out / "cache")
    student = StudentEncoder(read_student(out / "student"))
    lines = ["## Does the student agree with its teacher?", ""]
    try:
        held = open_held(student, subject, out / "queries.parquet", out / "labels", "test")
    except NoLabelError as error:
        # What was made stands without it.
        return [
            *lines,
            f"Not known: {error}. More test queries (`--test`) make it likelier that some have one.",
            "",
        ]
    lines += [
        f"{len(held.scores)} test queries that neither the student nor its calibration saw. *Of the ten*: how many of "
        "the teacher's ten are among the student's; by chance as many as ten items drawn blindly.",
        "",
        "| asked with | rank correlation | of the ten | by chance |",
        "| - | - | - | - |",
    ]
    for kind, words in (("image", "no prompt"), ("image_and_prompt", "its prompt")):
        ranks, common, chance = [], [], []
        for scores, cosines in zip(held.scores, held.similarity[kind], strict=True):
            known = np.flatnonzero(~np.isnan(scores))
            top = min(_TOP, len(known))
            theirs = set(known[np.argsort(-scores[known])[:top]].tolist())
            ours = set(known[np.argsort(-cosines[known])[:top]].tolist())
            common.append(len(theirs & ours) / top)
            chance.append(top / len(known))
            ranks.append(float(spearmanr(scores[known], cosines[known]).statistic))
        lines.append(f"| {words} | {np.nanmean(ranks):.2f} | {np.mean(common):.0%} | {np.mean(chance):.0%} |")
    return [*lines, ""]
