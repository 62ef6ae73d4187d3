"""From score files to the folder of a student whose image tower is the generator's own denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary_train.errors import StudentError
from attributary_train.evaluation.bench import open_world
from attributary_train.evaluation.scores import load_scores
from attributary_train.subject.queries import Queries
from attributary_train.teacher.query_digest import query_digests

from .config import StudentConfig
from .export import Samples, export_encoder
from .fitting import Fitted
from .folder import write_folder
from .generator_fitting import Lesson, Retrained, fit_generator
from .generator_tower import GeneratorStudent, GeneratorTower
from .item_queries import item_names
from .labelled import Labelled
from .making import handover
from .nowhere import foreign_pictures
from .sight import Seen
from .studio import Studio, to_tensor

Say = Callable[[str], None]
_BATCH, _SAMPLES = 64, 64


class Sight:
    """What the tower makes of a studio's queries and items."""

    def __init__(self, studio: Studio, config: StudentConfig) -> None:
        subject = studio.subject
        self.studio, self.words = studio, studio.words
        self.tower = GeneratorTower(subject.model, subject.autoencoder, subject.data.empty).eval()

    def queries(self, queries: Queries) -> Seen:
        """Features of generated pictures under their prompts."""
        pictures = self.studio.pictures(queries)
        mask = self.words.mask(queries.prompts)
        return self._views(pictures, [(queries.text.float(), mask)])[0]

    def items(self, config: StudentConfig) -> list[Seen]:
        """The training items under each level of their captions."""
        data = self.studio.subject.data
        captions = data.captions
        if captions is None:
            text = [(data.text.float(), self.words.mask(data.prompts))]
        else:
            masks = self.words.mask(captions.prompts)
            text = [(captions.states[rows].float(), masks[rows]) for rows in captions.of_item.T]
        return self._views(self.studio.item_pictures(config.items), text)

    def placed(self, config: StudentConfig) -> list[Seen]:
        """The items as `config.placed` has their vectors made."""
        if config.placed == "levels":
            return self.items(config)
        captions = self.captions()
        text = (self.studio.states(captions), self.words.mask(captions))
        return self._views(self.studio.item_pictures(config.items), [text])

    def captions(self) -> list[str]:
        """Each item's caption in the corpus, as a bundle has it."""
        subject = self.studio.subject
        return [subject.corpus.item(int(number)).caption for number in subject.data.ids]

    def foreign(self, queries: Queries, config: StudentConfig, seed: int = 0) -> Seen | None:
        """Pictures made of a generator's that it did not make, under its prompts."""
        if config.foreign == 0:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = foreign_pictures(to_tensor(self.studio.pictures(queries)), len(queries))
        text = (queries.text.float(), self.words.mask(queries.prompts))
        return self._views(made.numpy(), [text])[0]

    @torch.no_grad()
    def _views(self, pictures: npt.NDArray[np.uint8], text: Sequence[tuple[Tensor, Tensor]]) -> list[Seen]:
        parts: list[list[Tensor]] = [[] for _ in text]
        for at in range(0, len(pictures), _BATCH):
            latents = self.tower.latents(to_tensor(pictures[at : at + _BATCH]))
            bare = self.tower.without(latents)
            for found, (states, _) in zip(parts, text, strict=True):
                seen = self.tower.features(latents, states[at : at + _BATCH])
                found.append(torch.cat([bare, seen], dim=1))
        return [
            Seen(torch.cat(found).clone(), states, mask)
            for found, (states, mask) in zip(parts, text, strict=True)
        ]


def train_generator(
    studio: Studio,
    config: StudentConfig,
    labels: Labelled,
    out: Path,
    say: Say,
    *,
    item_scores: Path | None = None,
    losses: Path | None = None,
) -> Fitted:
    """Fit a head and write its folder, encoder included.

    labels: of every item; item_scores: a file of `student item-scores`, the items as further queries; losses: a
    benchmark's folder, whose training queries' losses the shares are to foretell.
    """
    if not labels.everything:
        raise StudentError(
            "labels", "are of some items a query; this student learns whole lists: give --scores"
        )
    sight = Sight(studio, config)
    items = sight.items(config)
    say(f"{len(items[0])} items seen under {len(items)} captions")
    placed, labelled = sight.placed(config), studio.labelled_queries(labels)
    lessons = [Lesson(sight.queries(labelled), full_lists(labels))]
    if item_scores is not None:
        rows, between = items_as_queries(studio, item_scores)
        # Where the one caption of an item is that of the corpus, both views are the same.
        other = [view for view in placed if not any(torch.equal(view.image, known.image) for known in items)]
        views = items if config.placed == "levels" else [*items, *other]
        lessons += [Lesson(view.take(rows), between) for view in views]
    retrained = None if losses is None else retrained_queries(sight, losses)
    say(f"{sum(len(lesson.seen) for lesson in lessons)} lists to learn")
    empty = studio.subject.data.empty.float()
    foreign = sight.foreign(labelled, config)
    fitted = fit_generator(config, placed, empty, lessons, retrained, say, foreign)
    model = GeneratorStudent(
        config.name, sight.tower, studio.words.tower(), fitted.query, fitted.items.shape[1]
    ).eval()
    out.mkdir(parents=True, exist_ok=True)
    ids, mask = studio.words.encode(labelled.prompts[:_SAMPLES])
    samples = Samples(studio.pictures(labelled.take(range(len(ids)))), ids.numpy(), mask.numpy())
    exported = export_encoder(out, model, studio.words.save_tokenizer(out), samples, int8=False)
    state = {f"query.{name}": value for name, value in fitted.query.state_dict().items()}
    state |= {"items": fitted.items, "from_head": fitted.from_head}
    taught = {"items_as_queries": item_scores is not None, "losses": retrained is not None}
    write_folder(
        out, handover(studio, config.name, "generator", config.to_json(), labels), studio.subject.data.ids,
        fitted.items.numpy(), state,
        {"loss": fitted.loss, "scales": list(fitted.scales), "taught": taught, "encoder": exported}
        | ({"vectors_made_by": "encoder"} if config.by_encoder else {}),
    )  # fmt: skip
    return fitted


def full_lists(labels: Labelled) -> npt.NDArray[np.float32]:
    """Labels of every item in the order of the training set, float32 [Q, N]."""
    out = np.zeros_like(labels.scores)
    np.put_along_axis(out, labels.rows, labels.scores, axis=1)
    return out


def items_as_queries(studio: Studio, path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Rows [R] of the items that were asked about, and their scores, float32 [R, N]; raises for those of another model
    or set."""
    data = studio.subject.data
    file = load_scores(path, weights=studio.subject.model.weights)
    asked = set(file.queries)
    rows = np.array([row for row, name in enumerate(item_names(data.ids)) if name in asked], np.int64)
    if len(rows) != len(asked):
        raise StudentError(str(path), f"{len(asked) - len(rows)} of its queries are no items of this model")
    return rows, file.aligned(item_names(data.ids[rows]), data.ids)


def retrained_queries(sight: Sight, folder: Path) -> Retrained:
    """A benchmark's training queries with their losses under models on halves of the items.

    Raises `StudentError` if its items or queries are others.
    """
    studio, world = sight.studio, open_world(folder, "train")
    data = studio.subject.data
    if sorted(world.ids.tolist()) != sorted(data.ids.tolist()):
        raise StudentError(str(folder), f"{len(world.ids)} items that are not the {len(data)} of this model")
    where = {name: row for row, name in enumerate(studio.queries.names)}
    missing = [name for name in world.names if name not in where]
    if missing:
        raise StudentError("queries", f"{len(missing)} of {folder} are not in the file, e.g. {missing[0]}")
    queries = studio.queries.take([where[name] for name in world.names])
    other = [
        name for name, a, b in zip(world.names, world.digests, query_digests(queries), strict=True) if a != b
    ]
    if other:
        raise StudentError(
            "queries", f"{len(other)} of {folder} are other ones of the same name, e.g. {other[0]}"
        )
    column = {number: at for at, number in enumerate(world.ids.tolist())}
    kept = world.kept[:, [column[number] for number in data.ids.tolist()]]
    return Retrained(sight.queries(queries), world.outputs, kept)
