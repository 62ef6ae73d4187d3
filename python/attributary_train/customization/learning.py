"""Training a map and choosing how far by the validation split; a map on disk."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from attributary_train.customization.gallery import Embedded, Gallery
from attributary_train.customization.maps import Map, MapSettings, Reduction, contrastive, new_map
from attributary_train.customization.measures import per_exemplar, retrieve
from attributary_train.customization.spaces.base import Features, Space
from attributary_train.errors import CustomizationError
from attributary_train.files import whole

DIM = 512
# What a map learns from.
FAMILIES: dict[str, tuple[str, ...]] = {
    "object": ("object",),
    "style": ("style",),
    "joint": ("object", "style"),
}
_PENALTIES = (0.3, 3.0)


@dataclass(frozen=True)
class Learned:
    """A trained map with what it stands on. `space`: the identity of its features; `facts`: how it was chosen."""

    space: str
    reduction: Reduction
    map: Map
    settings: MapSettings
    facts: dict[str, Any]

    def apply(self, embedded: Embedded) -> Embedded:
        """Both sides through the map."""
        return Embedded(self.queries(embedded.queries), self.items(embedded.items))

    @torch.inference_mode()
    def queries(self, rows: Features) -> Features:
        """Generated pictures' features float32 [Q, D] -> [Q, d], rows of unit length."""
        return self.map.generated(torch.from_numpy(self.reduction.apply(rows))).numpy()

    @torch.inference_mode()
    def items(self, rows: Features) -> Features:
        """Training images' features float32 [I, D] -> [I, d], rows of unit length."""
        return self.map.items(torch.from_numpy(self.reduction.apply(rows))).numpy()

    def write(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        tensors = {f"map.{name}": value.contiguous() for name, value in self.map.state_dict().items()}
        tensors["basis"] = torch.from_numpy(self.reduction.basis).contiguous()
        metadata = {
            "space": self.space,
            "settings": json.dumps(asdict(self.settings)),
            "facts": json.dumps(self.facts, sort_keys=True),
            "kept": str(self.reduction.kept),
        }
        with whole(path, CustomizationError) as stream:
            stream.write(to_bytes(tensors, metadata))

    @classmethod
    def read(cls, path: Path, space: str | None = None) -> Learned:
        """Raises `CustomizationError` if the file is damaged or belongs to other features than those of `space`."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            settings = MapSettings(**json.loads(metadata["settings"]))
            reduction = Reduction(tensors.pop("basis").numpy(), float(metadata["kept"]))
            made = new_map(settings, reduction.basis.shape[1])
            made.load_state_dict({name.removeprefix("map."): value for name, value in tensors.items()})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CustomizationError(str(path), f"not a readable map: {error}") from error
        if space is not None and metadata["space"] != space:
            raise CustomizationError(
                str(path), f"belongs to features {metadata['space']!r}, not to {space!r}"
            )
        return cls(metadata["space"], reduction, made.eval(), settings, json.loads(metadata["facts"]))


def map_identity(gallery: Gallery, space: Space) -> str:
    """What a map belongs to: the features, the data set that it learned from, and its distractors."""
    return f"{space.identity}; data set {gallery.digest[:16]}, {len(gallery.distractor_rows)} distractors"


def learn(
    gallery: Gallery,
    embedded: Embedded,
    space: Space,
    family: str = "joint",
    settings: MapSettings = MapSettings(),  # noqa: B008 - frozen
    *,
    log: Callable[[str], None] = lambda line: None,
) -> Learned:
    """Train maps of a few penalties on the training split; keep the one and the step that validate best.

    The measure is mAP on validation exemplars of the family, kinds counting equally; step 0, the identity, competes
    too. A penalty that `settings` states is kept. Test exemplars are never looked at.
    """
    if family not in FAMILIES:
        raise CustomizationError("family", f"{family!r}; there are {', '.join(FAMILIES)}")
    kinds = FAMILIES[family]
    train = np.concatenate([gallery.rows("train", kind) for kind in kinds])
    looked = [rows for kind in kinds if len(rows := gallery.rows("validation", kind))]
    if not len(train) or not looked:
        raise CustomizationError("split", f"a {family} map needs exemplars in training and in validation")
    reduction = Reduction.fit(embedded.items[gallery.distractor_rows], DIM)
    reduced = Embedded(reduction.apply(embedded.queries), reduction.apply(embedded.items))
    penalties = _PENALTIES if settings.orthogonality is None else (settings.orthogonality,)
    tried = [replace(settings, orthogonality=value) for value in penalties]
    best: tuple[float, Learned] | None = None
    for one in tried:
        score, step, found = _train(gallery, reduced, train, looked, one)
        facts = {"family": family, "step": step, "validation_map": round(score, 4), "pairs": len(train)}
        log(f"{family} map, penalty {one.orthogonality}: step {step}, validation mAP {score:.3f}")
        if best is None or score > best[0]:
            best = score, Learned(map_identity(gallery, space), reduction, found.eval(), one, facts)
    assert best is not None
    return best[1]


def _train(
    gallery: Gallery,
    embedded: Embedded,
    train: npt.NDArray[np.int64],
    looked: Sequence[npt.NDArray[np.int64]],
    settings: MapSettings,
) -> tuple[float, int, Map]:
    """The best validation score, its step, and the map as it was then."""
    made = new_map(settings, embedded.queries.shape[1])
    log_scale = torch.tensor(-np.log(settings.temperature), dtype=torch.float32, requires_grad=True)
    optimiser = torch.optim.Adam([*made.parameters(), log_scale], settings.learning_rate)
    queries, items = torch.from_numpy(embedded.queries), torch.from_numpy(embedded.items)
    best = (_validate(gallery, embedded, looked, made), 0, copy.deepcopy(made))
    made.train()
    for step in range(1, settings.steps + 1):
        stream = np.random.default_rng((settings.seed, step))
        rows = stream.permutation(train)[: settings.batch]
        whose = gallery.whose[rows]
        # An exemplar of several items gives a step one of them.
        chosen = [int(stream.choice(gallery.exemplar_rows[exemplar])) for exemplar in whose]
        loss = contrastive(made.generated(queries[rows]), made.items(items[chosen]), whose, log_scale)
        loss = loss + (settings.orthogonality or 0.0) * made.penalty()
        if not torch.isfinite(loss):
            raise CustomizationError("loss", f"not finite at step {step}; lower the learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % settings.look_every == 0 or step == settings.steps:
            score = _validate(gallery, embedded, looked, made)
            if score > best[0]:
                best = (score, step, copy.deepcopy(made))
    return best


@torch.inference_mode()
def _validate(
    gallery: Gallery, embedded: Embedded, looked: Sequence[npt.NDArray[np.int64]], made: Map
) -> float:
    """mAP of validation exemplars, the mean over kinds."""
    rows = np.concatenate(looked)
    queries = np.zeros_like(embedded.queries)
    queries[rows] = made.generated(torch.from_numpy(embedded.queries[rows])).numpy()
    mapped = Embedded(queries, made.items(torch.from_numpy(embedded.items)).numpy())
    found = [retrieve(gallery, mapped, part) for part in looked]
    return float(np.mean([per_exemplar(one.precision, one.whose).mean() for one in found]))
