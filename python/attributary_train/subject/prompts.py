"""What a training image is called when the generator learns it: its caption and its style, in that order."""

from __future__ import annotations

from attributary_train.corpus import Item

# How the style sets of the built-in corpus are spelled in a prompt; others keep their own name.
STYLES = {
    "openmoji": "OpenMoji",
    "noto": "Noto",
    "twemoji": "Twemoji",
    "fluent-emoji-flat": "Fluent flat",
    "fluent-3d": "Fluent 3D",
}
# Collections of many hands: there the style is the creator's.
BY_CREATOR = frozenset({"openclipart"})
_MAX_WORDS = 8


def style_of(item: Item) -> str:
    """The style an item is prompted by: its style set, or its creator where a set has many."""
    return item.creator if item.style_set in BY_CREATOR else STYLES.get(item.style_set, item.style_set)


def concept_of(caption: str) -> str:
    """A caption up to its first comma, and no more words than leave room for a style."""
    return " ".join(caption.split(",")[0].split()[:_MAX_WORDS]) or caption


def prompt_for(caption: str, style: str) -> str:
    """ "concept, style": long captions lose their tail so that the style always fits into the tokens."""
    return f"{concept_of(caption)}, {style} style"


def training_prompt(item: Item) -> str:
    """The one caption an item is trained with."""
    return prompt_for(item.caption, style_of(item))
