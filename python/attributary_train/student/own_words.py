"""A small text tower of a student's own, taught to say what the generator's packaged one says.

A student whose denoiser reads prompts needs token states. MiniLM makes them, and is many times the rest. This tower
learns MiniLM's states of captions, then that the whole student's embedding stays where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from attributary_train.errors import StudentError

from .compact import Attention, table_rows
from .generator_tower import GeneratorStudent

Say = Callable[[str], None]


@dataclass(frozen=True)
class WordsShape:
    """width, layers, heads of the transformer; known: word pieces with a row of their own; shared: rows that all
    others share; tokens: places of a prompt; dim: of a token's state."""

    width: int = 128
    layers: int = 3
    heads: int = 4
    known: int = 1
    shared: int = 256
    tokens: int = 16
    dim: int = 384


@dataclass(frozen=True)
class WordsSettings:
    """epochs over the texts for the states alone; steps with the whole student; batch: texts of a step; pictures: of a
    step with the whole student."""

    epochs: int = 24
    steps: int = 600
    batch: int = 192
    pictures: int = 48
    learning_rate: float = 2e-3
    last_rate: float = 4e-4
    seed: int = 0


class OwnWords(nn.Module):
    """int64 ids and mask [B, T] -> states float32 [B, T, dim], as `MiniLM.states`; T at most `shape.tokens`.

    `rows`, int32 [V], gives each word piece its row of the table.
    """

    rows: Tensor

    def __init__(self, shape: WordsShape, rows: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("rows", rows)
        self.table = nn.Embedding(shape.shared + shape.known, shape.width)
        nn.init.normal_(self.table.weight, std=0.5)
        self.places = nn.Parameter(torch.randn(shape.tokens, shape.width) * 0.1)
        self.layers = nn.ModuleList(Attention(shape.width, shape.heads) for _ in range(shape.layers))
        self.out = nn.Sequential(nn.LayerNorm(shape.width), nn.Linear(shape.width, shape.dim))

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """States of every place, the empty ones too: they see the words, and the denoiser reads them."""
        weight = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], dim=1).to(torch.float32)
        x = self.table(self.rows[ids].to(torch.int64)) + self.places[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, weight)
        out: Tensor = self.out(x)
        return out


@dataclass(frozen=True)
class Texts:
    """Texts as tokens with the states that are to be learned: ids, mask int64 [N, T], states [N, T, dim]."""

    ids: Tensor
    mask: Tensor
    states: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def learn_words(
    student: GeneratorStudent,
    texts: Texts,
    prompts: Texts,
    latents: Tensor,
    vocabulary: int,
    settings: WordsSettings,
    say: Say = lambda line: None,
) -> OwnWords:
    """Teach a tower and return it; `student` is the one with the packaged tower and is not changed.

    texts: what is read alone; asked: prompts of N pictures whose scaled latents are `latents` [N, C, h, w]. Raises
    `StudentError` if a loss is not finite.
    """
    known: Tensor = torch.cat([part.ids[part.mask > 0] for part in (texts, prompts)]).unique()  # type: ignore[no-untyped-call]
    shape = replace(WordsShape(), known=len(known), tokens=texts.ids.shape[1], dim=texts.states.shape[2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        tower = OwnWords(shape, table_rows(vocabulary, known, shape.shared))
        _learn_states(tower, [texts, prompts], settings, say)
        _learn_embeddings(tower, student, texts, prompts, latents, settings, say)
    return tower.eval()


def _learn_states(tower: OwnWords, parts: Sequence[Texts], settings: WordsSettings, say: Say) -> None:
    ids, mask = torch.cat([part.ids for part in parts]), torch.cat([part.mask for part in parts])
    states = torch.cat([part.states for part in parts])
    spread, mean = torch.std_mean(states.reshape(-1, states.shape[2]).float(), 0)
    last = cast(nn.Linear, tower.out[1])
    nn.init.zeros_(last.weight)
    last.bias.data = mean
    # MiniLM has dimensions that never vary.
    spread = spread.clamp(min=0.05 * float(spread.mean()))
    batches = -(-len(ids) // settings.batch)
    optimiser = torch.optim.AdamW(tower.parameters(), settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=batches * settings.epochs + 1, pct_start=0.1
    )
    for epoch in range(settings.epochs):
        total = 0.0
        for rows in torch.randperm(len(ids)).split(settings.batch):  # type: ignore[no-untyped-call]
            loss = ((tower.states(ids[rows], mask[rows]) - states[rows].float()) / spread).square().mean()
            total += _step(loss, optimiser, schedule, tower) / batches
        say(f"states: {total:.4f} of their variance left after {epoch + 1} of {settings.epochs} epochs")


def _learn_embeddings(
    tower: OwnWords,
    student: GeneratorStudent,
    texts: Texts,
    prompts: Texts,
    latents: Tensor,
    settings: WordsSettings,
    say: Say,
) -> None:
    """Pictures under their own prompts, and under texts that they were not made for."""
    optimiser = torch.optim.AdamW(tower.parameters(), settings.last_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.last_rate, total_steps=settings.steps + 1, pct_start=0.05
    )
    for other in student.parameters():
        other.requires_grad_(False)
    mean = 0.0
    for step in range(settings.steps):
        rows = torch.randint(0, len(prompts), (settings.pictures,))
        words, source = rows, prompts
        if step % 2:
            words, source = torch.randint(0, len(texts), (settings.pictures,)), texts
        ids, mask, states = source.ids[words], source.mask[words], source.states[words].float()
        found = tower.states(ids, mask)
        with torch.no_grad():
            wanted = student.head(student.tower.asked(latents[rows], states), states, mask)
        vectors = student.head(student.tower.asked(latents[rows], found), found, mask)
        loss = (1.0 - (wanted * vectors).sum(1)).mean()
        mean += 0.02 * (_step(loss, optimiser, schedule, tower) - mean) if step else float(loss.detach())
        if (step + 1) % 100 == 0:
            say(f"embeddings: 1 - cosine {mean:.4f} after {step + 1} of {settings.steps} steps")


def _step(
    loss: Tensor,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    module: nn.Module,
) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise StudentError("loss", "is not finite")
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
    optimiser.step()
    schedule.step()
    return value


def described(tower: OwnWords, settings: WordsSettings) -> dict[str, object]:
    """What student.json says of a tower."""
    return {"shape": asdict(tower.shape), "settings": asdict(settings)}


def own_words_of(told: Mapping[str, Any], state: Mapping[str, Tensor]) -> OwnWords:
    """The tower of a student's folder again: what `described` said of it, and its weights under "words."."""
    weights = {name.removeprefix("words."): part for name, part in state.items() if name.startswith("words.")}
    if not weights:
        raise StudentError("head.pt", "has no weights of the words that student.json names")
    tower = OwnWords(WordsShape(**told["shape"]), weights["rows"])
    tower.load_state_dict(weights)
    return tower.eval()
