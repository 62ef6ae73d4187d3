"""Training a head on cached features: a minute on one core, from labels to query head and item vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from attributary_train.errors import StudentError

from .config import StudentConfig
from .kernel_head import KernelHead
from .labelled import Labelled
from .losses import listmle, listwise, mass_targets, rank_bce, rank_mass_targets, rank_targets
from .sight import Seen
from .tower_heads import Ensemble, PaperHead, TokenHead

# The first scale of a loss by its link, and how strongly item vectors are held to where they started.
FIRST_SCALE = {"exponential": 15.0, "power": 2.0}
HOLD = 0.1
# Candidates of one query that meet in a batch of pairs.
PAIR_LIST = 32
# The scale is one number that has far to go: it learns faster than weights do.
SCALE_PACE = 5.0
_Head = PaperHead | TokenHead | KernelHead
_HEADS: dict[str, type[_Head]] = {"paper": PaperHead, "tokens": TokenHead, "kernel": KernelHead}


@dataclass(frozen=True)
class Material:
    """What a student is fitted to. queries: features of the labelled queries, in the labels' order; items: of the
    training set; kept: what was computed from them and does not change between runs."""

    queries: Seen
    items: Seen
    labels: Labelled
    kept: dict[tuple[object, ...], Seen] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.queries) != len(self.labels) or len(self.items) != self.labels.items:
            raise StudentError(
                "features",
                f"{len(self.queries)} queries and {len(self.items)} items, labels have "
                f"{len(self.labels)} and {self.labels.items}",
            )


@dataclass(frozen=True)
class Fitted:
    """query: module from tower outputs to float32 [B, D]; items: float32 [N, D], the vectors to index; from_head: what
    the item head alone says; loss: mean of the last epoch; scales: of the cosine in the loss, one a member."""

    query: nn.Module
    items: Tensor
    from_head: Tensor
    loss: float
    scales: tuple[float, ...]

    @torch.inference_mode()
    def scores(
        self, seen: Seen, *, refined: bool = True
    ) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Inner products of queries with all items, float32 [Q, N]; larger = more influential."""
        found = embed(self.query, seen) @ (self.items if refined else self.from_head).T
        return found.numpy()


@torch.inference_mode()
def embed(head: nn.Module, seen: Seen, batch: int = 32) -> Tensor:
    """Unit vectors of pictures, float32 [N, D]."""
    parts = [
        head(seen.image[at : at + batch], seen.states[at : at + batch], seen.mask[at : at + batch])
        for at in range(0, len(seen), batch)
    ]
    return torch.cat(parts)


def fit(config: StudentConfig, material: Material, say: Callable[[str], None] = lambda line: None) -> Fitted:
    """Train `config.members` heads, each from a seed of its own.

    Raises `StudentError` if the loss is not finite, or if the cosine ended up meaning its opposite.
    """
    if config.head not in _HEADS:
        raise StudentError(
            "head", f"{config.head!r} has a tower of its own: `student train --scores` fits it"
        )
    done = [
        _fit(replace(config, members=1, seed=config.seed + at), material, say) for at in range(config.members)
    ]
    if len(done) == 1:
        return done[0]
    share = len(done) ** -0.5
    return Fitted(
        Ensemble([one.query for one in done]).eval(),
        torch.cat([one.items for one in done], dim=1) * share,
        torch.cat([one.from_head for one in done], dim=1) * share,
        float(np.mean([one.loss for one in done])),
        tuple(scale for one in done for scale in one.scales),
    )


def _fit(config: StudentConfig, material: Material, say: Callable[[str], None]) -> Fitted:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return _Fit(config, material).run(say)


def _reduced(head: _Head, config: StudentConfig, material: Material, side: str) -> Seen:
    seen: Seen = getattr(material, side)
    if not isinstance(head, KernelHead):
        return head.reduce(seen)
    # Every token of a query meets every token of every item: by far the longest part of a run.
    key = (side, config.whitening, config.dim, config.image)
    if key not in material.kept:
        material.kept[key] = head.reduce_all(seen)
    return material.kept[key]


class _Fit:
    """One run: heads, item offsets, scale and shift, and the loss that they are trained with."""

    def __init__(self, config: StudentConfig, material: Material) -> None:
        self.config, self.labels = config, material.labels
        make = _HEADS[config.head]
        self.query = make(config, material.items)
        self.item = make(config, material.items) if config.separate else self.query
        if config.separate:
            # Heads that start apart would have to find each other first.
            self.item.load_state_dict(self.query.state_dict())
        self.queries = _reduced(self.query, config, material, "queries")
        self.items = _reduced(self.item, config, material, "items")
        self.rows = torch.from_numpy(self.labels.rows)
        self.scores = torch.from_numpy(self.labels.scores)
        self.weight = torch.from_numpy(self.labels.weight)
        self.offset = nn.Parameter(torch.zeros(len(material.items), config.dim))
        paper = config.loss == "rank_bce"
        self.scale = nn.Parameter(torch.tensor(-1.0 if paper else math.log(FIRST_SCALE[config.link])))
        self.shift = nn.Parameter(torch.zeros(()))
        self.targets = self._targets()

    def _targets(self) -> Tensor:
        config = self.config
        if config.loss == "rank_bce":
            return rank_targets(self.scores)
        if config.loss == "listmle":
            return self.scores
        make = mass_targets if config.target == "mass" else rank_mass_targets
        return make(self.scores, self.weight, config.sharpness)

    def run(self, say: Callable[[str], None]) -> Fitted:
        """Train; see `fit`."""
        config = self.config
        pairs = self.rows.shape[1]
        paper = config.loss == "rank_bce"
        heads = list(dict.fromkeys([*self.query.parameters(), *self.item.parameters()]))
        groups = [
            {"params": heads, "weight_decay": config.weight_decay},
            {"params": [self.offset], "weight_decay": 0.0},
            {"params": [self.scale, self.shift], "weight_decay": 0.0},
        ]
        rates = [
            config.learning_rate,
            config.learning_rate * config.item_pace,
            config.learning_rate * (1 if paper else SCALE_PACE),
        ]
        optimiser = torch.optim.AdamW(
            [{**group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
        )
        steps = -(-len(self.rows) // config.batch)
        schedule = None
        if not paper and config.epochs:
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimiser, rates, total_steps=max(2, steps * config.epochs), pct_start=0.1
            )
        mean = math.nan
        for epoch in range(config.epochs):
            self.query.train()
            self.item.train()
            losses = []
            for picked in (
                self._pair_batches() if paper else torch.randperm(len(self.rows)).split(config.batch)  # type: ignore[no-untyped-call]
            ):
                loss = self._pairs(picked // pairs, picked % pairs) if paper else self._lists(picked)
                if not torch.isfinite(loss):
                    raise StudentError("loss", f"not finite in epoch {epoch + 1} of {config.name}")
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                if schedule is not None:
                    schedule.step()
                losses.append(float(loss.detach()))
            mean = float(np.mean(losses))
        say(f"{config.name}, seed {config.seed}: loss {mean:.4f} after {config.epochs} epochs")
        return self._finished(mean)

    def _pair_batches(self) -> Iterator[Tensor]:
        """Every pair once, in batches: `PAIR_LIST` random candidates of each of some random queries, so that a step
        embeds few queries many times over."""
        queries, pairs = self.rows.shape
        short = min(PAIR_LIST, pairs)
        places = torch.rand(queries, pairs).argsort(1).split(short, dim=1)  # type: ignore[no-untyped-call]
        chunks = [(torch.arange(queries)[:, None] * pairs + part) for part in places]
        stacked = [row for chunk in chunks for row in chunk]
        order = torch.randperm(len(stacked)).tolist()
        per = max(1, self.config.batch // short)
        for at in range(0, len(order), per):
            yield torch.cat([stacked[row] for row in order[at : at + per]])

    def _pairs(self, rows: Tensor, places: Tensor) -> Tensor:
        """The paper's step: single pairs, some with a random item from outside the candidates."""
        items, target = self.rows[rows, places], self.targets[rows, places]
        outside = torch.rand(len(items)) < self.config.outside
        if outside.any() and not self.labels.everything:
            drawn = torch.randint(0, len(self.offset), (len(items),))
            outside &= ~(self.rows[rows] == drawn[:, None]).any(1)
            items = torch.where(outside, drawn, items)
            target = torch.where(outside, torch.ones(()), target)
        unique, at = rows.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        seen = self._with_dropout(unique)
        cosine = (self.query.embed(seen)[at] * self._item_vectors()[items]).sum(1)
        return rank_bce(cosine, target, self.scale, self.shift)

    def _lists(self, rows: Tensor) -> Tensor:
        vectors = self._item_vectors()
        cosine = (self.query.embed(self._with_dropout(rows)) @ vectors.T).gather(1, self.rows[rows])
        if self.config.loss == "listmle":
            loss = listmle(cosine, self.targets[rows], self.scale.exp() * FIRST_SCALE["exponential"])
        else:
            loss = listwise(cosine, self.targets[rows], self.weight, self.scale.exp(), self.config.link)
        return loss + HOLD * self.offset.square().sum(1).mean()

    def _with_dropout(self, rows: Tensor) -> Seen:
        seen = self.queries.take(rows.numpy())
        kept = (torch.rand(len(rows), 1) >= self.config.prompt_dropout).float()
        return Seen(seen.image, seen.states, seen.mask * kept)

    def _item_vectors(self) -> Tensor:
        if isinstance(self.item, KernelHead) and self.config.free_items:
            return F.normalize(self.item.start + self.offset, dim=1)
        vectors = self.item.embed(self.items)
        return F.normalize(vectors + self.offset, dim=1) if self.config.free_items else vectors

    def _finished(self, loss: float) -> Fitted:
        self.query.eval()
        self.item.eval()
        scale = float(self.scale.detach() if self.config.loss == "rank_bce" else self.scale.detach().exp())
        # Targets of rank_bce are small for influential items: the cosine must enter with a minus, or identical inputs
        # would be the least influential of all.
        if self.config.loss == "rank_bce" and not scale < 0:
            raise StudentError(
                "scale", f"ended at {scale:.3g}, not below 0: identical inputs would rank last"
            )
        with torch.inference_mode():
            from_head = self.item.embed(self.items)
            items = self._item_vectors()
        return Fitted(self.query, items.clone(), from_head.clone(), loss, (scale,))
