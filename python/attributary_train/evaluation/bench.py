"""The benchmark: any method's scores against losses of models that were trained on halves of the items. No retraining.

Needs numpy and scipy alone, so that a method from elsewhere can be judged without a model or a picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy.stats import rankdata  # type: ignore[import-untyped]

from attributary_train.errors import EvaluationError
from attributary_train.evaluation.ranking import Floats, pearson_rows, spearman_rows
from attributary_train.evaluation.stats import Interval, percentile_interval, resamples
from attributary_train.files import reading

DRAWS = 400
SPLITS = ("validation", "test", "train")


class TooFewPairsError(EvaluationError):
    """Fewer than two pairs of halves are trained."""


@dataclass(frozen=True)
class World:
    """Losses of one split's queries under models on halves of the items.

    kept: bool [M, N], halves in complementary pairs (rows 2p and 2p + 1); ids: int64 [N]; names, kinds, prompts,
    digests: Q queries; outputs: float64 [Q, M], minus the losses; again: float64 [Q, S], those of a second training of
    the subsets `twice`; captions: N sets of an item's captions.
    """

    split: str
    kept: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int64]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    prompts: tuple[str, ...]
    digests: tuple[str, ...]
    outputs: Floats
    again: Floats
    twice: npt.NDArray[np.int64]
    captions: tuple[frozenset[str], ...]

    def same_caption(self) -> npt.NDArray[np.bool_]:
        """Whether an item has the query's prompt among its captions, bool [Q, N]."""
        rows = {prompt: [prompt in known for known in self.captions] for prompt in set(self.prompts)}
        return np.array([rows[prompt] for prompt in self.prompts], bool)


def open_world(folder: Path, split: str, after: int = 0, by: str = "") -> World:
    """Read one split of a benchmark; halves whose complement is not trained yet are left out, and the first `after`.

    by: "creators" for the halves that hold whole creators.
    Raises `EvaluationError` naming the file that is missing or wrong, `TooFewPairsError` where nothing can be judged.
    """
    if split not in SPLITS:
        raise EvaluationError("split", f"{split!r}; there are {', '.join(SPLITS)}")
    plan, table = (
        arrays(folder / (f"plan-{by}.npz" if by else "plan.npz")),
        arrays(folder / f"losses-{split}.npz"),
    )
    try:
        ids, losses = plan["ids"].astype(np.int64), table["losses"].astype(np.float64)
        kept = np.unpackbits(plan["kept"], axis=1, count=len(ids)).astype(bool)
        runs = {name: row for row, name in enumerate(table["runs"].tolist())}
        queries = [row for row in rows_of(folder / "queries.parquet") if row["split"] == split]
        digests = {row["name"]: row["digest"] for row in rows_of(folder / "digests.parquet")}
        items = {row["id"]: row for row in rows_of(folder / "items.parquet")}
        captions = tuple(
            frozenset(str(value) for name, value in items[number].items() if name.startswith("caption"))
            for number in ids.tolist()
        )
        digests_of = tuple(digests[row["name"]] for row in queries)
    except (KeyError, TypeError) as error:
        raise EvaluationError(str(folder), f"not a benchmark: lacks {error}") from error
    if losses.shape[1:] != (len(queries),):
        raise EvaluationError(
            str(folder), f"{losses.shape[1:]} losses of split {split}, {len(queries)} queries"
        )
    half = f"{by}-half" if by else "half"
    pairs = [
        pair
        for pair in range(-(-after // 2), len(kept) // 2)
        if {f"{half}-{2 * pair:03d}", f"{half}-{2 * pair + 1:03d}"} <= set(runs)
    ]
    if len(pairs) < 2:
        raise TooFewPairsError(
            str(folder), f"{len(pairs)} pairs of {half}s are trained; at least 2 are needed"
        )
    subsets = [row for pair in pairs for row in (2 * pair, 2 * pair + 1)]
    twice = [at for at, subset in enumerate(subsets) if f"{half}-{subset:03d}-second" in runs]
    return World(
        split,
        kept[subsets],
        ids,
        tuple(row["name"] for row in queries),
        tuple(row["kind"] for row in queries),
        tuple(row["prompt"] for row in queries),
        digests_of,
        -losses[[runs[f"{half}-{subset:03d}"] for subset in subsets]].T,
        -losses[[runs[f"{half}-{subsets[at]:03d}-second"] for at in twice]].T,
        np.array(twice, np.int64),
        captions,
    )


def read_scores(path: Path, world: World) -> tuple[str, Floats]:
    """A method's name and its scores of the world's queries and items, float64 [Q, N].

    A .npz with `scores` [queries, items], `queries` (names) and `ids` (int64); `about`, JSON with `method` and
    `query_digests`, is read where it is there. Raises `EvaluationError` naming what is missing, another or not finite.
    """
    parts = arrays(path)
    try:
        scores, names, ids = parts["scores"], parts["queries"].tolist(), parts["ids"].astype(np.int64)
        about = json.loads(str(parts["about"])) if "about" in parts else {}
    except (KeyError, ValueError) as error:
        raise EvaluationError(str(path), f"not a file of scores: lacks {error}") from error
    if scores.shape != (len(names), len(ids)):
        raise EvaluationError(str(path), f"scores {scores.shape} for {len(names)} queries, {len(ids)} items")
    where = {name: row for row, name in enumerate(names)}
    missing = [name for name in world.names if name not in where]
    if missing:
        raise EvaluationError(str(path), f"lacks {len(missing)} {world.split} queries, e.g. {missing[0]}")
    if sorted(ids.tolist()) != sorted(world.ids.tolist()):
        raise EvaluationError(str(path), f"its {len(ids)} ids are not the benchmark's {len(world.ids)} items")
    known = about.get("query_digests")
    if known is not None:
        digests_of = dict(zip(names, known, strict=True))
        other = [n for n, digest in zip(world.names, world.digests, strict=True) if digests_of[n] != digest]
        if other:
            raise EvaluationError(str(path), f"{len(other)} queries are other ones there, e.g. {other[0]}")
    column = {number: at for at, number in enumerate(ids.tolist())}
    rows = [where[name] for name in world.names]
    picked: Floats = scores[rows][:, [column[number] for number in world.ids.tolist()]].astype(np.float64)
    if not np.isfinite(picked).all():
        raise EvaluationError(str(path), f"{int((~np.isfinite(picked)).sum())} scores are not finite")
    return str(about.get("method") or path.stem), picked


def by_order(scores: Floats) -> Floats:
    """1 / rank, the best item's rank being 1 and ties sharing theirs."""
    order: Floats = 1.0 / rankdata(-scores, axis=1)
    return order


def by_amount(scores: Floats) -> Floats:
    """What a score rises above the query's median, squared; 0 below."""
    rise = np.maximum(scores - np.median(scores, axis=1, keepdims=True), 0.0)
    amount: Floats = (rise / np.maximum(rise.max(axis=1, keepdims=True), 1e-300)) ** 2
    return amount


def within_caption(scores: Floats, same: npt.NDArray[np.bool_]) -> Floats:
    """By order among the items that have the query's prompt as a caption, and 0 for all others: what words cannot tell.

    The mean over these items is taken out, so that their number in a subset tells nothing.
    """
    out = np.zeros_like(scores)
    for row, chosen in enumerate(same):
        if chosen.sum() > 1:
            order = 1.0 / rankdata(-scores[row, chosen])
            out[row, chosen] = order - order.mean()
    return out


Amounts = Callable[[Floats, World], Floats]
MEASURES: Mapping[str, Amounts] = {
    "raw": lambda scores, world: scores,
    "order": lambda scores, world: by_order(scores),
    "amount": lambda scores, world: by_amount(scores),
    "within_caption": lambda scores, world: within_caption(scores, world.same_caption()),
}


def predicted(amounts: Floats, world: World) -> Floats:
    """Summed amounts of the items that each half keeps, float64 [Q, M]."""
    centred = amounts - amounts.mean(axis=1, keepdims=True)
    sums: Floats = centred @ world.kept.T.astype(np.float64)
    return sums


@dataclass(frozen=True)
class Figure:
    """Mean LDS over queries with its interval; `rows` [Q]; `draws` [B], the same resamples for every method."""

    interval: Interval
    rows: Floats
    draws: Floats


class Bench:
    """LDS of any number of methods on one world, with the same resamples.

    Queries are drawn with replacement; of the pairs of halves, half are drawn without: drawn with replacement, subsets
    meet themselves, and a rank correlation with ties falls. The spread over samples of half the size is that of the
    whole (the delete-d jackknife at d = M / 2; Shao and Wu, 1989).
    """

    def __init__(self, world: World, draws: int = DRAWS, seed: int = 0) -> None:
        self.world = world
        pairs = len(world.kept) // 2
        rng = np.random.default_rng((seed, pairs))
        chosen = [np.sort(rng.permutation(pairs)[: max(2, pairs // 2)]) for _ in range(draws)]
        self._subsets = [np.stack([2 * pair, 2 * pair + 1], axis=1).ravel() for pair in chosen]
        self._queries = resamples(len(world.names), draws, seed)
        self._ranked = [rankdata(world.outputs[:, part], axis=1) for part in self._subsets]

    def of(self, amounts: Floats) -> Figure:
        """LDS of amounts [Q, N]."""
        sums = predicted(amounts, self.world)
        rows = spearman_rows(sums, self.world.outputs)
        parts = zip(self._subsets, self._ranked, self._queries, strict=True)
        halved = np.array(
            [
                pearson_rows(rankdata(sums[:, part], axis=1), ranked)[some].mean()
                for part, ranked, some in parts
            ]
        )
        value = float(rows.mean())
        # Halves of the subsets have a bias of their own, which is no error of the figure.
        return Figure(percentile_interval(value, halved - halved.mean() + value), rows, halved)

    def difference(self, first: Figure, second: Figure) -> Interval:
        """Of two methods, resampled together."""
        value = float(first.rows.mean() - second.rows.mean())
        drawn = first.draws - second.draws
        return percentile_interval(value, drawn - drawn.mean() + value)


def seed_agreement(world: World) -> float | None:
    """Mean Spearman correlation over subsets of two trainings' losses; its root is what can be reached against one."""
    if len(world.twice) < 3:
        return None
    return float(spearman_rows(world.outputs[:, world.twice], world.again).mean())


def constant_scores(train: World, queries: int) -> Floats:
    """The best that one list for all queries can do: an item's mean effect on the training queries' losses, [Q, N]."""
    common = (train.outputs - train.outputs.mean(axis=1, keepdims=True)).mean(axis=0)
    effect = (train.kept - 0.5).T @ common
    return np.broadcast_to(effect, (queries, len(effect))).astype(np.float64)


def arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """What a .npz holds; raises `EvaluationError` if it cannot be read."""
    with reading(path, EvaluationError), np.load(path, allow_pickle=False) as parts:
        return {name: parts[name] for name in parts.files}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A Parquet file row by row, without latents; raises `EvaluationError` if it cannot be read."""
    with reading(path, EvaluationError):
        columns = [name for name in pq.read_schema(path).names if name != "latent"]
        rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    return rows
