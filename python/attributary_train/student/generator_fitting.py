"""Training the head on the generator's own features: whole lists of a teacher, and losses of retrained models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from attributary_train.errors import StudentError

from .config import StudentConfig
from .fitting import FIRST_SCALE, HOLD, SCALE_PACE, Fitted
from .generator_head import GeneratorHead
from .losses import listwise, mass_targets, rank_mass_targets, soft_log
from .nowhere import nowhere
from .sight import Seen

# Weight of foreign pictures beside the lists, which are sums over a thousand items.
STRANGE = 2.0
# Items that a step compares with. Of more, the best of each of its lists are taken, and others drawn to stand for the
# rest: a step over ten thousand items takes seconds.
STEP_ITEMS, BEST = 2048, 8
_ALL = slice(None)


@dataclass(frozen=True)
class Lesson:
    """Queries and the scores that a teacher gave every item, float32 [Q, N]."""

    seen: Seen
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Retrained:
    """Queries and what models on parts of the items made of them: outputs float64 [Q, M], minus the losses; kept: bool
    [M, N], the items that each model was trained on."""

    seen: Seen
    outputs: npt.NDArray[np.float64]
    kept: npt.NDArray[np.bool_]


def together(parts: Sequence[Seen]) -> Seen:
    """Several as one."""
    return Seen(
        torch.cat([part.image for part in parts]),
        torch.cat([part.states for part in parts]),
        torch.cat([part.mask for part in parts]),
    )


def fit_generator(
    config: StudentConfig,
    items: Sequence[Seen],
    empty: Tensor,
    lessons: Sequence[Lesson],
    retrained: Retrained | None = None,
    say: Callable[[str], None] = lambda line: None,
    foreign: Seen | None = None,
) -> Fitted:
    """Train one head; `items`: the training set under each of its captions, N rows each; `empty` [T, D]; `foreign`:
    pictures that no generator made, under prompts, to be near no item with them and without.

    An item's vector is the mean of the head's over `items`, and over no prompt where `config.placed` is "levels", and
    an offset of its own held near 0 (`config.free_items`).
    Raises `StudentError` for lists that are not of these items, or a loss that is not finite.
    """
    if config.loss != "listwise" or config.members != 1:
        raise StudentError("config", "a generator student has one member and the loss listwise")
    if not lessons:
        raise StudentError("labels", "there are none to learn from")
    for lesson in lessons:
        if lesson.scores.shape != (len(lesson.seen), len(items[0])):
            raise StudentError(
                "labels", f"{lesson.scores.shape} of {len(lesson.seen)} queries, {len(items[0])} items"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return _Fit(config, items, empty, lessons, retrained, foreign).run(say)


class _Fit:
    """One run."""

    def __init__(
        self,
        config: StudentConfig,
        items: Sequence[Seen],
        empty: Tensor,
        lessons: Sequence[Lesson],
        retrained: Retrained | None,
        foreign: Seen | None,
    ) -> None:
        self.config = config
        self.head = GeneratorHead(config, together(items), empty)
        views = [*items, items[0].without_prompt()] if config.placed == "levels" else items
        self.items = [self._reduced(view) for view in views]
        self.strange = (
            None
            if foreign is None or config.foreign == 0
            else torch.cat([self._reduced(foreign), self._reduced(foreign.without_prompt())])
        )
        asked = together([lesson.seen for lesson in lessons])
        self.prompted, self.unprompted = self._reduced(asked), self._reduced(asked.without_prompt())
        scores = torch.from_numpy(np.concatenate([lesson.scores for lesson in lessons]))
        self.weight = torch.ones(scores.shape[1])
        make = mass_targets if config.target == "mass" else rank_mass_targets
        self.targets = make(scores, self.weight, config.sharpness)
        self.best = None if len(self.weight) <= STEP_ITEMS else self.targets.topk(BEST).indices
        self.offset = nn.Parameter(torch.zeros(len(items[0]), config.dim))
        self.scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE[config.link])))
        self.retrained = None if retrained is None or config.retrained == 0 else self._centred(retrained)

    @torch.no_grad()
    def _reduced(self, seen: Seen) -> Tensor:
        return self.head.reduce(seen.image, seen.states, seen.mask).clone()

    def _centred(self, retrained: Retrained) -> tuple[Tensor, Tensor, Tensor]:
        outputs, kept = torch.from_numpy(retrained.outputs).float(), torch.from_numpy(retrained.kept).float()
        return self._reduced(retrained.seen), _unit(outputs), kept - kept.mean(0)

    def run(self, say: Callable[[str], None]) -> Fitted:
        """Train; see `fit_generator`."""
        config, rows = self.config, len(self.prompted)
        rates = [config.learning_rate * pace for pace in (1.0, config.item_pace, SCALE_PACE)]
        optimiser = torch.optim.AdamW(
            [
                {"params": self.head.parameters(), "weight_decay": config.weight_decay, "lr": rates[0]},
                {"params": [self.offset], "weight_decay": 0.0, "lr": rates[1]},
                {"params": [self.scale], "weight_decay": 0.0, "lr": rates[2]},
            ]
        )
        steps = -(-rows // config.batch) * config.epochs
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, rates, total_steps=max(2, steps + 1), pct_start=0.1
        )
        mean = math.nan
        self.head.train()
        for epoch in range(config.epochs):
            losses = []
            for picked in torch.randperm(rows).split(config.batch):  # type: ignore[no-untyped-call]
                loss = self._loss(picked)
                if not torch.isfinite(loss):
                    raise StudentError("loss", f"not finite in epoch {epoch + 1} of {config.name}")
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                losses.append(float(loss.detach()))
            mean = float(np.mean(losses))
            say(f"{config.name}: loss {mean:.4f} after {epoch + 1} of {config.epochs} epochs")
        self.head.eval()
        with torch.no_grad():
            from_head = F.normalize(self._from_head(), dim=1)
            vectors = self._vectors() if config.free_items else from_head
            return Fitted(
                self.head, vectors.clone(), from_head.clone(), mean, (float(self.scale.detach().exp()),)
            )

    def _from_head(self, some: Tensor | slice = _ALL) -> Tensor:
        return torch.stack([self.head.embed(view[some]) for view in self.items]).mean(0)

    def _vectors(self, some: Tensor | slice = _ALL) -> Tensor:
        return F.normalize(self._from_head(some) + self.offset[some] * float(self.config.free_items), dim=1)

    def _some(self, rows: Tensor) -> tuple[Tensor | slice, Tensor]:
        """Items that the lists `rows` are compared on, and how many items each of them stands for."""
        if self.best is None:
            return _ALL, self.weight
        best = self.best[rows].flatten().unique()  # type: ignore[no-untyped-call]
        best = best[torch.randperm(len(best))[: STEP_ITEMS // 2]]
        drawn = torch.randperm(len(self.weight))
        others = drawn[~torch.isin(drawn, best)][: STEP_ITEMS - len(best)]
        each = (len(self.weight) - len(best)) / len(others)
        return torch.cat([best, others]), torch.cat([torch.ones(len(best)), torch.full((len(others),), each)])

    def _loss(self, rows: Tensor) -> Tensor:
        hidden = torch.rand(len(rows), 1) < self.config.prompt_dropout
        some, weight = self._some(rows)
        vectors, targets = self._vectors(some), self.targets[rows][:, some]
        if self.best is not None:
            targets = targets * weight
            targets = targets / targets.sum(1, keepdim=True).clamp(min=1e-12)
        cosine = self.head.embed(torch.where(hidden, self.unprompted[rows], self.prompted[rows])) @ vectors.T
        loss = listwise(cosine, targets, weight, self.scale.exp(), self.config.link)
        loss = loss + HOLD * self.offset.square().sum(1).mean()
        if self.strange is not None:
            picked = torch.randint(0, len(self.strange), (self.config.foreign,))
            away = nowhere(vectors.detach())
            loss = loss + STRANGE * (1.0 - self.head.embed(self.strange[picked]) @ away).mean()
        if self.retrained is None:
            return loss
        asked, outputs, kept = self.retrained
        return loss - self.config.retrained * self._predicted(asked, outputs, kept[:, some], vectors, weight)

    def _predicted(
        self, asked: Tensor, outputs: Tensor, kept: Tensor, vectors: Tensor, weight: Tensor
    ) -> Tensor:
        """Mean correlation of the shares summed over what each model kept with what became of a batch of queries."""
        pick = torch.randint(0, len(asked), (min(self.config.batch, len(asked)),))
        cosine = self.head.embed(asked[pick]) @ vectors.T
        shown = cosine if self.config.link == "exponential" else soft_log(cosine)
        shares = (self.scale.exp() * shown + weight.log()).softmax(dim=1)
        return (_unit(shares @ kept.T) * outputs[pick]).sum(1).mean()


def _unit(rows: Tensor) -> Tensor:
    """Rows less their mean, of unit length."""
    far = rows - rows.mean(1, keepdim=True)
    out: Tensor = far / far.norm(dim=1, keepdim=True).clamp(min=1e-9)
    return out
