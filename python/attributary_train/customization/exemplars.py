"""What a customized model is tuned toward, and the rule that no exemplar a map is judged by may have taught it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attributary_train.corpus import Corpus, CorpusError, Item
from attributary_train.errors import CustomizationError
from attributary_train.files import reading

SPLITS = ("train", "validation", "test")
OBJECT, STYLE = "object", "style"
KINDS = (OBJECT, STYLE)


@dataclass(frozen=True)
class Exemplar:
    """What one customized model is tuned toward.

    `ids`: one item for an object, several of one creator for a style; `label`: the object's caption or the creator;
    `seen`: whether the training split holds another exemplar of the same concept or creator.
    """

    name: str
    kind: str
    split: str
    seen: bool
    ids: tuple[int, ...]
    label: str

    def __post_init__(self) -> None:
        where = f"exemplar {self.name}"
        if self.kind not in KINDS:
            raise CustomizationError(where, f"kind {self.kind!r}; there are {', '.join(KINDS)}")
        if self.split not in SPLITS:
            raise CustomizationError(where, f"split {self.split!r}; there are {', '.join(SPLITS)}")
        if not self.ids or (self.kind == OBJECT and len(self.ids) != 1):
            raise CustomizationError(where, f"{len(self.ids)} items; an object has 1, a style at least 1")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Exemplar:
        """Raises `CustomizationError` naming what is missing or unknown."""
        try:
            return cls(**{**values, "ids": tuple(int(number) for number in values["ids"])})
        except (TypeError, KeyError, ValueError) as error:
            raise CustomizationError(
                f"exemplar {values.get('name', '?')}", f"not readable: {error}"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def load_exemplars(path: Path, corpus: Corpus) -> list[Exemplar]:
    """Read a JSON list of exemplars that somebody chose; refuses leaks and unknown items by name."""
    with reading(path, CustomizationError):
        entries = json.loads(path.read_text())
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CustomizationError(str(path), "must hold a JSON list of objects")
    chosen = [Exemplar.from_json(entry) for entry in entries]
    check_exemplars(chosen, corpus)
    return chosen


def check_exemplars(chosen: Sequence[Exemplar], corpus: Corpus) -> None:
    """Raises `CustomizationError` for an item that is not in the corpus, two of one name, or a leak."""
    names = [exemplar.name for exemplar in chosen]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CustomizationError(f"exemplar {twice}", "stands there twice")
    for exemplar in chosen:
        for number in exemplar.ids:
            try:
                corpus.item(number)
            except CorpusError as error:
                raise CustomizationError(f"exemplar {exemplar.name}", str(error)) from error
    refuse_leaks(chosen, corpus)


def refuse_leaks(chosen: Sequence[Exemplar], corpus: Corpus) -> None:
    """Raises `CustomizationError` naming two exemplars of different splits that share what they must not.

    An item or a near-duplicate group never stands in two splits. The concept of a held-out object (the creator of a
    held-out style) is drawn by (draws) no item of the training split, of whatever kind. An exemplar is held out unless
    it is in training or says that its concept or creator is seen.
    """
    items: dict[int, tuple[str, str]] = {}
    groups: dict[int, tuple[str, str]] = {}
    taught: dict[tuple[str, str], str] = {}
    for exemplar in chosen:
        for number in exemplar.ids:
            item = corpus.item(number)
            _refuse(items, number, exemplar, f"item {number}")
            _refuse(groups, item.near_dup_group, exemplar, f"near-duplicate group {item.near_dup_group}")
            if exemplar.split == "train":
                for kind in ("object", "style"):
                    taught[_trait(kind, item)] = exemplar.name
    for exemplar in chosen:
        if exemplar.split == "train" or exemplar.seen:
            continue
        for number in exemplar.ids:
            kind, value = trait = _trait(exemplar.kind, corpus.item(number))
            if trait in taught:
                raise CustomizationError(
                    "split leak",
                    f"{kind} {value!r} of {exemplar.name} ({exemplar.split}, held out) is in training with "
                    f"{taught[trait]}",
                )


def _trait(kind: str, item: Item) -> tuple[str, str]:
    return ("creator", item.creator) if kind == "style" else ("concept", item.concept_id)


def _refuse(known: dict[int, tuple[str, str]], number: int, exemplar: Exemplar, what: str) -> None:
    name, split = known.setdefault(number, (exemplar.name, exemplar.split))
    if split != exemplar.split:
        raise CustomizationError(
            "split leak", f"{what} is in {name} ({split}) and in {exemplar.name} ({exemplar.split})"
        )
