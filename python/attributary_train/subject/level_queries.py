"""Queries of a model whose items have captions of several levels, and held-out drawings as queries beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from attributary_train.errors import SubjectError
from attributary_train.subject.captions import Captions
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import SPLITS, Prompt, Queries

# What is asked for: kinds of prompt, named by the level of their caption, and no prompt at all.
EMPTY = "empty"
MIX = {"concept": 0.3, "category": 0.4, "style": 0.2, EMPTY: 0.1}
# Captions belong to one split each: a student is judged on prompts that it has not met.
CAPTIONS = {"train": 0.6, "validation": 0.2, "test": 0.2}
# A real picture that the model never saw, with a caption; its query's seed is the item's number.
DRAWING = "drawing"


def level_prompts(captions: Captions, counts: Mapping[str, int], *, seed: int = 0) -> list[Prompt]:
    """Prompts for `counts` (split -> number), each with its own seed; a caption is asked for several times where there
    are fewer than wanted, and never in two splits but for the empty one.

    Raises `SubjectError` if a split has no caption of a level.
    """
    rng = np.random.default_rng(seed)
    pools = _pools(captions, rng)
    prompts = []
    for split in SPLITS:
        wanted = int(counts.get(split, 0))
        kinds = [name for name in (*captions.levels, EMPTY) if name in MIX]
        total = sum(MIX[name] for name in kinds)
        numbers = {name: int(wanted * MIX[name] / total) for name in kinds}
        numbers[kinds[0]] += wanted - sum(numbers.values())
        for kind in kinds:
            pool = [""] if kind == EMPTY else pools[split, kind]
            if numbers[kind] and not pool:
                raise SubjectError(f"queries.{split}", f"no caption of level {kind} is left")
            for at in range(numbers[kind]):
                prompts.append(Prompt(pool[at % len(pool)], kind, split, int(rng.integers(2**31))))
    return prompts


def _pools(captions: Captions, rng: np.random.Generator) -> dict[tuple[str, str], list[str]]:
    """Captions by (split, level). A caption that stands on two levels belongs to the first."""
    taken: set[str] = set()
    out: dict[tuple[str, str], list[str]] = {}
    for level in captions.levels:
        # Captions of one item alone name it: they are no question.
        shared = Counter(captions.of_level(level))
        free = sorted(name for name, number in shared.items() if number > 1 and name not in taken)
        taken |= set(free)
        mixed, first = [free[at] for at in rng.permutation(len(free))], 0
        for split in SPLITS:
            last = first + round(CAPTIONS[split] * len(mixed)) if split != SPLITS[-1] else len(mixed)
            out[split, level] = mixed[first:last]
            first = last
    return out


def drawing_queries(model: SubjectModel, held_out: SubjectData, made: Queries, *, seed: int = 0) -> Queries:
    """`made` with the held-out drawings behind it: a third of them validation queries, the others test queries.

    A drawing's prompt is its caption on a level drawn as in training. Its seed is its item's number.
    """
    captions = held_out.captions
    if captions is None:
        raise SubjectError(
            "recipe.captions", "has no levels; held-out drawings are queries of models with some"
        )
    rng = np.random.default_rng((seed, 2))
    level = rng.choice(
        len(captions.levels),
        len(held_out),
        p=captions.shares.double().numpy() / float(captions.shares.double().sum()),
    )
    of_item = captions.of_item[torch.arange(len(held_out)), torch.from_numpy(level)]
    first = set(rng.permutation(len(held_out))[: len(held_out) // 3].tolist())
    count = len(held_out)
    return replace(
        made,
        names=(*made.names, *(f"{DRAWING}-{at:04d}" for at in range(count))),
        splits=(*made.splits, *("validation" if at in first else "test" for at in range(count))),
        kinds=(*made.kinds, *[DRAWING] * count),
        prompts=(*made.prompts, *(captions.prompts[at] for at in of_item.tolist())),
        seeds=(*made.seeds, *(int(number) for number in held_out.ids)),
        latents=torch.cat([made.latents, held_out.latents]),
        text=torch.cat([made.text, captions.states[of_item]]),
    )
