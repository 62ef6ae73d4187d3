"""Leave-K-out in groups: one training without the K best items of several queries at once, for each method.

A training a query and method costs as much as what it tells is small. Queries that share no prompt hardly share items,
so a dozen of them can lose theirs together; what a query loses when only the others' items are missing is taken off,
and with it what any removal of so many items does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.bench import World, arrays
from attributary_train.evaluation.ranking import Floats, Scores, top_rows
from attributary_train.evaluation.stats import mean_interval, paired_interval
from attributary_train.evaluation.tables import ends_row, interval_row
from attributary_train.files import reading, write_text

FILE = "left-out.json"


def query_groups(prompts: Sequence[str], groups: int, size: int, seed: int = 0) -> list[list[int]]:
    """`groups` lists of `size` positions, no prompt twice in one; the first ones are the same whatever their number."""
    waiting = np.random.default_rng(seed).permutation(len(prompts)).tolist()
    out: list[list[int]] = []
    while len(out) < groups:
        group: list[int] = []
        for at in waiting:
            if len(group) < size and prompts[at] not in {prompts[other] for other in group}:
                group.append(at)
        if len(group) < size:
            raise EvaluationError("groups", f"{groups} of {size}; the {len(prompts)} queries make {len(out)}")
        waiting = [at for at in waiting if at not in group]
        out.append(group)
    return out


def kept_without(scores: Scores, groups: Sequence[Sequence[int]], count: int) -> list[Any]:
    """Masks bool [N], one a group: all items but the `count` best of each of its queries; scores [Q, N]."""
    top = top_rows(scores, count)
    out = []
    for group in groups:
        kept = np.ones(scores.shape[1], bool)
        kept[top[list(group)].ravel()] = False
        out.append(kept)
    return out


def run_name(method: str, group: int) -> str:
    """Of a training without what a method names for a group."""
    return f"without-{method}-{group:02d}"


def write_groups(
    path: Path, split: str, count: int, groups: Sequence[Sequence[str]], removed: Mapping[str, Sequence[int]]
) -> None:
    """Say whose items were left out together, and how many by each method; what is there of other methods stays.

    Raises `EvaluationError` if the file is about other queries or another count.
    """
    facts: dict[str, Any] = {"split": split, "count": count, "groups": [list(group) for group in groups]}
    known = read_groups(path)
    if known is not None:
        shared = min(len(known["groups"]), len(groups))
        if (known["split"], known["count"]) != (split, count) or known["groups"][:shared] != facts["groups"][
            :shared
        ]:
            raise EvaluationError(str(path), "is about other queries or another count; choose another folder")
        facts["groups"] = max(known["groups"], facts["groups"], key=len)
        removed = {**known["removed"], **removed}
    facts["removed"] = {name: list(values) for name, values in removed.items()}
    write_text(path, json.dumps(facts, indent=1) + "\n", EvaluationError)


def read_groups(path: Path) -> dict[str, Any] | None:
    """What `write_groups` wrote; None where there is no file."""
    if not path.exists():
        return None
    with reading(path, EvaluationError):
        facts: dict[str, Any] = json.loads(path.read_text())
    missing = {"groups", "split", "count", "removed"} - set(facts)
    if missing:
        raise EvaluationError(str(path), f"lacks {sorted(missing)[0]}")
    return facts


@dataclass(frozen=True)
class LeftOut:
    """rises: by method, float64 [G, S]: how much more a query loses without its own K best than without those of other
    groups' queries, for the method's first G groups; removed: items a training lacks, the mean."""

    count: int
    rises: dict[str, Floats]
    removed: dict[str, float]


def open_left_out(folder: Path, world: World) -> LeftOut | None:
    """Methods with at least two groups trained; None if there are none, or they are of another split."""
    facts = read_groups(folder / FILE)
    if facts is None or facts["split"] != world.split:
        return None
    table = arrays(folder / f"losses-{world.split}.npz")
    losses = dict(zip(table["runs"].tolist(), table["losses"].astype(np.float64), strict=True))
    column = {name: at for at, name in enumerate(world.names)}
    try:
        rows = [[column[name] for name in group] for group in facts["groups"]]
    except KeyError as error:
        raise EvaluationError(str(folder / FILE), f"no {world.split} query {error}") from error
    rises, removed = {}, {}
    for method, counts in facts["removed"].items():
        names = [run_name(method, at) for at in range(len(counts))]
        trained = list(takewhile(losses.__contains__, names))
        if len(trained) < 2:
            continue
        each = np.stack([losses[name] for name in trained])
        own = enumerate(rows[: len(trained)])
        rises[method] = np.stack(
            [each[at, row] - np.delete(each, at, axis=0)[:, row].mean(axis=0) for at, row in own]
        )
        removed[method] = float(np.mean(counts[: len(trained)]))
    return LeftOut(int(facts["count"]), rises, removed) if rises else None


def left_out_rows(found: LeftOut, rivals: Sequence[str]) -> list[dict[str, Any]]:
    """A row a method: the mean rise in thousandths of loss, and what it is above the best of `rivals`, by query.

    Items that say nothing of a query have a rise of 0 by construction.
    """
    order = sorted(found.rises, key=lambda name: -found.rises[name].mean())
    best = next((name for name in order if name in rivals), None)
    out = []
    for name in order:
        rise = 1000 * found.rises[name].ravel()
        row = {
            "method": name,
            "measure": f"rise of loss without {found.count} items, x 1000",
            "queries": len(rise),
            "removed": round(found.removed[name], 1),
            **interval_row(mean_interval(rise)),
            "queries_that_lose": round(float((rise > 0).mean()), 3),
        }
        if best is not None and name != best:
            # On the groups that both have. One shares a training, whose chance an interval over queries leaves out.
            mine, other = (1000 * found.rises[which] for which in (name, best))
            both = min(len(mine), len(other))
            row |= {
                "less": best,
                **ends_row("difference", paired_interval(mine[:both].ravel(), other[:both].ravel())),
            }
            gap = paired_interval(mine[:both].mean(axis=1), other[:both].mean(axis=1))
            row |= {"groups": both, **ends_row("difference_of_groups", gap)}
        out.append(row)
    return out
