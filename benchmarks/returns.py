"""Is a deleted item's picture known when it is added again, and is anything else taken for one?

    python benchmarks/returns.py --bundle out/bundle --corpus out/pictures [--every N] [--no-copies] [--name NAME]
        [--json] [--save]

`copies`: every N-th item, deleted like all others, comes back as JPEG 90 (framed_pictures.py has more frames).
`others`: as it is, while it and its near duplicates were never there and all others are deleted: whatever is taken for
one of them is wrong, as a mirror image if it is another creator's. `ms` is processor time for one newcomer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import process_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import aim, arguments, emit

# Beside this script lies triton.py, which torch would take for its own triton.
sys.path.remove(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
from frames import framed
from own_pictures import Item, items_of, percent
from PIL import Image, ImageOps

from attributary.bundle.bundle import Bundle
from attributary.delta.gone import Gone
from attributary.pictures import read
from attributary.pictures.looks import look_of
from attributary.pictures.recognise import Known


def thin(part: float, colour: str) -> Any:
    """A frame of so much of the width."""
    return lambda image: ImageOps.expand(image, max(1, round(part * image.width)), colour)


def half(image: Image.Image) -> Image.Image:
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)))


KINDS = {
    "as it is": lambda image: image,
    "half the size": half,
    "mirrored": ImageOps.mirror,
    "frame of 1% black": thin(0.01, "black"),
    "frame of 4% black": thin(0.04, "black"),
    "frame of 10% white": thin(0.1, "white"),
}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="the corpus with the items' pictures")
    parser.add_argument("--every", type=int, default=1, help="take every so-manieth item")
    parser.add_argument("--no-copies", action="store_true", help="others alone")
    parser.add_argument("--name", default="", help="of the bundle, in the saved file's name")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    if bundle.looks is None:
        raise SystemExit(f"{options.bundle}: has no looks")
    items = items_of(bundle, options.corpus, options.every)
    size = bundle.manifest.encoder.image_size
    gone = Gone(np.arange(len(bundle.items)), Known.of(np.asarray(bundle.looks)))
    table: dict[str, list[dict[str, Any]]] = {}
    if not options.no_copies:
        table["copies"] = [copies(gone, items, size, kind) for kind in KINDS]
    table["others"] = [others(gone, bundle, items, size)]
    aims = [
        aim(f"not known: {row['copy']}", 100 - row["known_pct"], 5, "%", row["known_pct"] >= 95)
        for row in table.get("copies", [])[:2]
    ]
    wrong = table["others"][0]["of_another_creator_pct"]
    aims.append(aim("taken for another creator's", wrong, 1, "%", wrong <= 1))
    settings = {"bundle": options.name or options.bundle.name, "items": len(items)}
    emit("returns" + f"_{options.name}" * bool(options.name), settings, table, aims, options.json)


def copies(gone: Gone, items: list[Item], size: int, kind: str) -> dict[str, Any]:
    print(kind, file=sys.stderr, flush=True)
    known, another, spent = [], [], 0.0
    for item in items:
        picture = read(framed(item.data, KINDS[kind]), size, margins=True)
        started = process_time()
        rows = set(gone.shown(picture.pixels, picture.overview) or gone.mirrored(look_of(picture.pixels)))
        spent += process_time() - started
        known.append(bool(rows & item.same))
        another.append(bool(rows) and not rows & item.same)
    ms = round(1e3 * spent / len(items), 2)
    return {
        "copy": kind,
        "items": len(items),
        "known_pct": percent(known),
        "another_pct": percent(another),
        "ms": ms,
    }


def others(gone: Gone, bundle: Bundle, items: list[Item], size: int) -> dict[str, Any]:
    groups, creators = bundle.items.near_dup_groups, bundle.items.creator_of_row
    own, another = [], []
    for item in items:
        rows = np.flatnonzero(groups != groups[item.row])
        left = Known(gone.known.looks[rows], gone.known.signs[rows], gone.known.standing[rows])
        picture = read(item.data, size, margins=True)
        there = Gone(rows, left)
        taken = there.shown(picture.pixels, picture.overview)
        # Mirror images of the same creator's are no returns.
        mirrored = there.mirrored(look_of(picture.pixels)) if not taken else []
        taken += [row for row in mirrored if creators[row] != creators[item.row]]
        same = [creators[row] == creators[item.row] for row in taken]
        own.append(bool(taken) and all(same))
        another.append(bool(taken) and not all(same))
    return {
        "items": len(items), "of_the_same_creator": sum(own), "of_another_creator": sum(another),
        "of_the_same_creator_pct": percent(own), "of_another_creator_pct": percent(another),
    }  # fmt: skip


if __name__ == "__main__":
    main()
