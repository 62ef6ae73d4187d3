"""A data set's plan: every exemplar with its prompts and seeds, before a model is tuned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attributary_train.customization.exemplars import OBJECT, Exemplar
from attributary_train.customization.families import MEDIA, OBJECTS, media_prompts, object_prompts
from attributary_train.customization.tuning import TuneSettings
from attributary_train.errors import CustomizationError
from attributary_train.files import reading, write_text

PLAN, ROWS, SHARDS, LOCKS, MANIFEST = "plan.json", "rows.safetensors", "shards", "locks", "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class MakeSettings:
    """What decides every byte of a data set, apart from the model and the exemplars."""

    # Chosen on contact sheets: an object comes through in few steps and is copied in more, a hand needs more.
    objects: TuneSettings = field(default_factory=TuneSettings)
    styles: TuneSettings = field(default_factory=TuneSettings.for_styles)
    pictures: int = 8  # generated pictures of an exemplar
    steps: int = 30  # DDIM steps
    guidance: float = 3.0
    prior_items: int = 256  # training items that rows against forgetting are drawn from
    seed: int = 0

    def __post_init__(self) -> None:
        CustomizationError.if_below(
            1, "settings.", pictures=self.pictures, steps=self.steps, prior_items=self.prior_items
        )

    def tuning(self, exemplar: Exemplar) -> TuneSettings:
        """How a model is tuned toward an exemplar of this kind."""
        return self.objects if exemplar.kind == OBJECT else self.styles

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MakeSettings:
        """The inverse of `asdict`; raises `CustomizationError` for a field that is unknown."""
        try:
            tuning = {name: TuneSettings(**values[name]) for name in ("objects", "styles")}
            return cls(**{**values, **tuning})
        except (TypeError, KeyError) as error:
            raise CustomizationError("settings", f"not readable: {error}") from error


@dataclass(frozen=True)
class Planned:
    """One customized model: its exemplar, and the prompts and seeds of its pictures."""

    exemplar: Exemplar
    family: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """The exemplar's name, and its shard's."""
        return self.exemplar.name

    @property
    def tuning_seed(self) -> int:
        """Belongs to the exemplar, whatever else is in the data set."""
        return number_of(self.name, "tuning")


@dataclass(frozen=True)
class Plan:
    """A data set before it is made. `weights` and `corpus` are hashes of what it is made with."""

    settings: MakeSettings
    weights: str
    corpus: str
    paths: dict[str, str]
    planned: tuple[Planned, ...]

    def facts(self) -> dict[str, Any]:
        """What must agree for a data set to be continued: all but where things lie."""
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": asdict(self.settings),
            "weights": self.weights,
            "corpus": self.corpus,
            "exemplars": [
                {
                    **entry.exemplar.to_json(),
                    "ids": list(entry.exemplar.ids),
                    "family": entry.family,
                    "prompts": list(entry.prompts),
                    "seeds": list(entry.seeds),
                }
                for entry in self.planned
            ],
        }

    def digest(self) -> str:
        """SHA-256 of the facts, hexadecimal."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write plan.json; there whole or not at all."""
        text = json.dumps({**self.facts(), "paths": self.paths}, indent=1) + "\n"
        write_text(folder / PLAN, text, CustomizationError)

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Raises `CustomizationError` naming what is wrong with it."""
        path = folder / PLAN
        with reading(path, CustomizationError, "not a plan"):
            content = json.loads(path.read_text())
            if content["schema_version"] != SCHEMA_VERSION:
                raise CustomizationError(
                    str(path), f"schema version {content['schema_version']}; this reads {SCHEMA_VERSION}"
                )
            planned = []
            for entry in content["exemplars"]:
                own = {name: entry.pop(name) for name in ("family", "prompts", "seeds")}
                planned.append(
                    Planned(
                        Exemplar.from_json(entry), own["family"], tuple(own["prompts"]), tuple(own["seeds"])
                    )
                )
            settings = MakeSettings.from_json(content["settings"])
            return cls(settings, content["weights"], content["corpus"], content["paths"], tuple(planned))

    def shard(self, folder: Path, entry: Planned) -> Path:
        """Where the pictures of an exemplar lie."""
        return folder / SHARDS / f"{entry.name}.parquet"


def number_of(*words: object) -> int:
    """A seed that belongs to what the words name, in [0, 2^31)."""
    digest = hashlib.blake2b("\t".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**31


def with_prompts(
    exemplars: Sequence[Exemplar], names: Sequence[str], settings: MakeSettings
) -> tuple[Planned, ...]:
    """Give every exemplar its prompts and seeds. `names`: objects that styles are drawn on."""
    planned = []
    for exemplar in exemplars:
        rng = np.random.default_rng((settings.seed, number_of(exemplar.name, *exemplar.ids)))
        if exemplar.kind == OBJECT:
            family, prompts = MEDIA, media_prompts(exemplar.label, settings.pictures, rng)
        else:
            family, prompts = OBJECTS, object_prompts(names, settings.pictures, rng)
        seeds = tuple(int(seed) for seed in rng.integers(2**31, size=settings.pictures))
        planned.append(Planned(exemplar, family, tuple(prompts), seeds))
    return tuple(planned)
