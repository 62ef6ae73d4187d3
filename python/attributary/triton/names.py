"""What the models of a bundle are called in a repository.

`attribution`, `index` and `encoder` are aliases: names that stay, which lead to models whose names carry the bundle's
id. A new bundle is loaded beside the old one and the aliases change last, so an encoder never meets another bundle's
index.
"""

from __future__ import annotations

from typing import Final

ALIASES: Final = ("attribution", "index", "encoder")
"""Names that clients may rely on."""


def model_name(part: str, bundle_id: str) -> str:
    """Name of a bundle's own model; `part` is one of ALIASES."""
    return f"{part}_{bundle_id}"


def parse(name: str) -> tuple[str, str] | None:
    """Return (part, bundle id) of a bundle's own model, None for any other name."""
    part, _, bundle_id = name.partition("_")
    if part not in ALIASES or len(bundle_id) != 16 or not set(bundle_id) <= set("0123456789abcdef"):
        return None
    return part, bundle_id
