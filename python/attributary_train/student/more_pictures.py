"""More generated pictures for distillation: no teacher is asked about them, so they cost a sampler's pass each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from attributary_train.errors import StudentError
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.queries import Prompt, Queries, generate, load_queries, save_queries

# Pictures of a file, and so what a kill costs at most.
_CHUNK = 128
# Shares of prompts that recombine a known concept with a known style, and that are of concepts never trained on; the
# rest are those of training items.
RECOMBINED = 0.35
UNSEEN = 0.2


def prompts_for_distillation(
    training: Sequence[str], held: Sequence[str], count: int, *, others: Sequence[str] = (), seed: int = 0
) -> list[Prompt]:
    """Prompts with new seeds: training items' own, their concepts and styles recombined ("tulip, Noto style"), and
    `others`, of concepts that the generator was not trained on.

    None is a prompt of `held`: validation and test queries stay unheard of.
    """
    rng = np.random.default_rng(seed)
    pools = {
        "seen": sorted(set(training) - set(held)),
        "recombined": recombined(training, held),
        "unseen": sorted(set(others) - set(training) - set(held)),
    }
    if not pools["seen"]:
        raise StudentError("prompts", "none is left beside those of validation and test queries")
    out = []
    for number in range(count):
        drawn = rng.random()
        kind = "recombined" if drawn < RECOMBINED else "unseen" if drawn < RECOMBINED + UNSEEN else "seen"
        kind = kind if pools[kind] else "seen"
        pool = pools[kind]
        out.append(Prompt(pool[rng.integers(len(pool))], kind, "train", 2**31 + seed * 10**6 + number))
    return out


def recombined(training: Sequence[str], held: Sequence[str]) -> list[str]:
    """Concepts and styles of the training prompts that never met in them, less the prompts of `held`; sorted.

    Prompts that are no "concept, style" are left as they are: captions of other kinds give nothing to recombine.
    """
    pairs = [(parts[0], parts[1]) for prompt in training if len(parts := prompt.rsplit(", ", 1)) == 2]
    # A style counts as one where several concepts have it; a creator's own is not recombined.
    styles = sorted({style for _, style in pairs if sum(other == style for _, other in pairs) > 3})
    concepts = sorted({concept for concept, style in pairs if style in styles})
    return sorted({f"{c}, {s}" for c in concepts for s in styles} - set(training) - set(held))


def make_pictures(
    model: SubjectModel,
    prompts: Sequence[Prompt],
    tokens: int,
    folder: Path,
    *,
    steps: int,
    guidance: float,
    say: Callable[[str], None] = lambda line: None,
) -> list[Queries]:
    """Generate one picture a prompt into `folder`, files of 128; files that are there are read, not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for at in range(0, len(prompts), _CHUNK):
        some, path = prompts[at : at + _CHUNK], folder / f"{at // _CHUNK:05d}.parquet"
        if not path.exists():
            save_queries(generate(model, some, tokens, steps=steps, guidance=guidance), path)
            say(f"{at + len(some)} of {len(prompts)} pictures")
        found = load_queries(path, model)
        if found.prompts != tuple(prompt.text for prompt in some):
            raise StudentError(str(path), "holds pictures of other prompts; choose another folder")
        parts.append(found)
    return parts
