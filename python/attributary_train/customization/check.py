"""The maker's own check: a tuned model's pictures are closer to the exemplar than the untuned model's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attributary_train.customization.gallery import Gallery
from attributary_train.customization.measures import per_exemplar
from attributary_train.customization.spaces.base import Space, embed
from attributary_train.errors import CustomizationError

# Spaces that look through the very weights that are tuned.
_TUNED_WITH = frozenset({"bottleneck"})
AIM = 0.9


@dataclass(frozen=True)
class Check:
    """Mean cosine to the exemplar's items, a value an exemplar, float64 [E]: of tuned and of untuned pictures."""

    tuned: npt.NDArray[np.float64]
    untuned: npt.NDArray[np.float64]
    kinds: tuple[str, ...]

    def share(self, kind: str | None = None) -> float:
        """Share of exemplars whose tuned pictures are closer."""
        chosen = np.array([kind in (None, own) for own in self.kinds])
        return float((self.tuned > self.untuned)[chosen].mean()) if chosen.any() else float("nan")


def check(gallery: Gallery, space: Space, cache: Path | None, pictures: int = 4) -> Check:
    """Compare the first `pictures` of every exemplar, each with its twin of the same prompt and seed."""
    if space.name in _TUNED_WITH:
        raise CustomizationError(
            "check", f"{space.name} is a space of the tuned model itself; choose another"
        )
    starts = np.searchsorted(gallery.whose, np.arange(len(gallery.exemplars)))
    rows = np.flatnonzero(np.arange(len(gallery.whose)) - starts[gallery.whose] < pictures)
    texts = [gallery.prompts[row] for row in rows]
    items = embed(space, gallery.item_pictures, gallery.captions, cache)
    closeness = []
    for drawn in (gallery.pictures, gallery.untuned):
        found = embed(space, drawn[rows], texts, cache)
        closeness.append(
            [
                float((items[gallery.exemplar_rows[gallery.whose[row]]] @ one).mean())
                for row, one in zip(rows, found, strict=True)
            ]
        )
    whose = gallery.whose[rows]
    kinds = tuple(exemplar.kind for exemplar in gallery.exemplars)
    return Check(per_exemplar(closeness[0], whose), per_exemplar(closeness[1], whose), kinds)
