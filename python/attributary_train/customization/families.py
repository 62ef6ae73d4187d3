"""The papers' two families of prompts: an object in many media, a style on many objects.

`V*` stands for the word that is learned (Kumari et al., "Multi-Concept Customization of Text-to-Image Diffusion",
CVPR 2023). Tuning never names a medium, and never an object that is drawn later, so that a generated picture's prompt
is new to the tuned model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attributary_train.errors import CustomizationError
from attributary_train.subject.prompts import STYLES

NEW_WORD = "V*"
MEDIA, OBJECTS = "media", "objects"
# Words that MiniLM knows and that no caption of the corpus uses for a style.
_MEDIA_WORDS = ("an icon", "a sticker", "a badge", "a drawing", "a cartoon", "a sign", "a stamp", "a button")
# A name's tail is cut, so that the medium always fits into the tokens of a prompt.
_NAME_WORDS = 4


@dataclass(frozen=True)
class Family:
    """A family of prompts. `tuning` are templates a model is tuned with; `{name}` is an object's name."""

    name: str
    tuning: tuple[str, ...]

    def tuning_prompt(self, name: str, draw: int) -> str:
        """The prompt of one exemplar row while tuning."""
        return self.tuning[draw % len(self.tuning)].format(name=short(name))


FAMILIES = {
    MEDIA: Family(MEDIA, (f"{NEW_WORD} {{name}}", f"a {NEW_WORD} {{name}}", f"one {NEW_WORD} {{name}}")),
    OBJECTS: Family(OBJECTS, (f"{{name}}, {NEW_WORD} style",)),
}


def family(name: str) -> Family:
    """Raises `CustomizationError` if there is no such family."""
    if name not in FAMILIES:
        raise CustomizationError("prompt family", f"{name!r} is unknown; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def short(name: str) -> str:
    """The first words of a caption, up to its first comma."""
    return " ".join(name.split(",")[0].split()[:_NAME_WORDS]) or name


def media_prompts(name: str, count: int, rng: np.random.Generator) -> list[str]:
    """`count` prompts for an object: in the styles that the reference model knows, then in other media."""
    obj = f"{NEW_WORD} {short(name)}"
    known = [f"{obj}, {style} style" for style in STYLES.values()]
    new = [f"{obj} as {medium}" for medium in _MEDIA_WORDS]
    # Half of each: what the model was trained to say, and what it has to make out.
    half = min(len(known), (count + 1) // 2)
    return _draw(known, half, rng) + _draw(new, count - half, rng)


def object_prompts(names: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` prompts for a style: objects of the list `names`, drawn in it."""
    if not names:
        raise CustomizationError("objects", "there is no name to draw in a style")
    return [f"{name}, {NEW_WORD} style" for name in _draw([short(name) for name in names], count, rng)]


def _draw(pool: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Draw without repeats, starting over where the pool is shorter than `count`."""
    order: list[str] = []
    while len(order) < count:
        order += [pool[at] for at in rng.permutation(len(pool))]
    return order[:count]
