"""Prompts of the queries: seen ones, recombinations, new concepts; no prompt stands in two splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attributary_train.corpus import Corpus
from attributary_train.errors import SubjectError
from attributary_train.subject.prompts import BY_CREATOR, prompt_for, style_of, training_prompt
from attributary_train.subject.queries import KINDS, SPLITS, Prompt

# Shares of the kinds in every split: most generations of a deployed model are near what it knows.
MIX = {"seen": 0.6, "recombined": 0.25, "unseen": 0.15}


def query_prompts(
    corpus: Corpus,
    train: Sequence[int],
    unseen: Sequence[int],
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    plain: bool = False,
) -> list[Prompt]:
    """Choose prompts for `counts` (split -> number), each with its own seed.

    seen: a caption of the training set; recombined: a known concept in a known style that never met in training;
    unseen: a concept that the training set lacks, from the captions of the items `unseen`. A kind of which there is
    none gives its share to the seen ones. `plain`: the model was trained on captions as they are (an adopted one), so
    prompts carry no style and nothing is recombined; where it has fewer captions than queries are wanted, each split
    gets its part of them and repeats them with other seeds. Raises `SubjectError` for too few prompts of a kind.
    """
    rng = np.random.default_rng(seed)
    pools = {kind: _shuffled(pool, rng) for kind, pool in _pools(corpus, train, unseen, plain).items()}
    mix = {kind: share if pools[kind] else 0.0 for kind, share in MIX.items()}
    if plain:
        pools["seen"] = enough(pools["seen"], counts)
    prompts = []
    for name in SPLITS:
        wanted = int(counts.get(name, 0))
        numbers = {kind: round(wanted * mix[kind]) for kind in KINDS[1:]}
        numbers["seen"] = wanted - sum(numbers.values())
        for kind in KINDS:
            if len(pools[kind]) < numbers[kind]:
                raise SubjectError(
                    f"queries.{name}", f"{numbers[kind]} {kind} prompts wanted, {len(pools[kind])} are left"
                )
            for _ in range(numbers[kind]):
                prompts.append(Prompt(pools[kind].pop(), kind, name, int(rng.integers(2**31))))
    return prompts


def enough(pool: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    """Captions from the end for each split in turn, none in two splits, repeated until they suffice."""
    wanted = [int(counts.get(name, 0)) for name in SPLITS]
    splits = sum(number > 0 for number in wanted)
    if sum(wanted) <= len(pool) or len(pool) < splits:
        return list(pool)
    # One for each split that asks, the rest by what they want.
    spare = len(pool) - splits
    parts = [1 + spare * number // sum(wanted) if number else 0 for number in wanted]
    out: list[str] = []
    at = 0
    for number, part in zip(wanted, parts, strict=True):
        own = pool[at : at + part]
        out += [own[turn % part] for turn in range(number)]
        at += part
    return out[::-1]


def _shuffled(pool: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [pool[at] for at in rng.permutation(len(pool))]


def _pools(corpus: Corpus, train: Sequence[int], new: Sequence[int], plain: bool) -> dict[str, list[str]]:
    items = [corpus.item(number) for number in train]
    if plain:
        known = {item.caption for item in items}
        others = {corpus.item(number).caption for number in new} - known
        return {"seen": sorted(known), "recombined": [], "unseen": sorted(others)}
    seen = {training_prompt(item) for item in items}
    styles = sorted({style_of(item) for item in items if item.style_set not in BY_CREATOR})
    captions = sorted({item.caption for item in items})
    recombined = {prompt_for(caption, style) for caption in captions for style in styles} - seen
    unseen_captions = sorted({corpus.item(number).caption for number in new} - set(captions))
    unseen = (
        {prompt_for(caption, style) for caption in unseen_captions for style in styles} - seen - recombined
    )
    return {"seen": sorted(seen), "recombined": sorted(recombined), "unseen": sorted(unseen)}
