"""One exemplar: the model tuned toward it, its pictures, and what the subject draws without the tuning."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from attributary_train.customization.families import family
from attributary_train.customization.plan import MakeSettings, Planned
from attributary_train.customization.rows import Prepared
from attributary_train.customization.shards import Shard
from attributary_train.customization.tuning import Rows, applied, tune
from attributary_train.customization.words import States, Words
from attributary_train.generators.latents import decode
from attributary_train.subject.checkpoint import load_autoencoder, load_subject
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.sample import sample


class Customizer:
    """A subject model that is ready to be tuned toward one exemplar after another."""

    def __init__(self, subject: Path, prepared: Prepared, settings: MakeSettings) -> None:
        self.model: SubjectModel = load_subject(subject)
        self.autoencoder: AutoencoderKL = load_autoencoder(subject)
        self.words = Words(subject, prepared.empty.shape[0])
        self.prepared, self.settings = prepared, settings

    def customize(self, entry: Planned, captions: tuple[str, ...]) -> Shard:
        """Tune toward an exemplar and draw its prompts; `captions` of its items. The model is left as it was.

        The untuned pictures are drawn by the subject itself from the same states and seeds; the new word's row is then
        what the text tower gives for its placeholder, where tuning starts.
        """
        rows, word = self._rows(entry, captions)
        prompts_states = self.words.states(entry.prompts)
        tuned = tune(
            self.model,
            rows,
            self.prepared.prior,
            self.prepared.empty,
            word,
            self.settings.tuning(entry.exemplar),
            entry.tuning_seed,
        )
        before = self._draw(prompts_states, word, entry)
        with applied(self.model, tuned):
            after = self._draw(prompts_states, tuned.word, entry)
        facts = {
            "weights": tuned.digest(),
            "subject": self.model.weights,
            "first_loss": round(tuned.first_loss, 6),
            "last_loss": round(tuned.last_loss, 6),
        }
        return Shard(decode(self.autoencoder, after), decode(self.autoencoder, before), facts)

    def _rows(self, entry: Planned, captions: tuple[str, ...]) -> tuple[Rows, Tensor]:
        latents, made = self.prepared.of(entry), family(entry.family)
        # An object's several wordings are rows of their own; a style has a wording an item.
        copies = -(-len(made.tuning) // len(latents))
        latents = latents.repeat(copies, 1, 1, 1)
        captions = captions * copies
        states = self.words.states([made.tuning_prompt(name, at) for at, name in enumerate(captions)])
        word = states.states[torch.arange(len(states)), states.place].mean(dim=0)
        return Rows(latents, states), word

    def _draw(self, prompts_states: States, word: Tensor, entry: Planned) -> Tensor:
        settings = self.settings
        return sample(
            self.model,
            prompts_states.with_word(word),
            self.prepared.empty,
            entry.seeds,
            steps=settings.steps,
            guidance=settings.guidance,
            batch=settings.pictures,
        )
