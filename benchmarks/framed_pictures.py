"""Is an item's picture recognised within a frame, between bars, in a screenshot, above words; and no other picture?

    python benchmarks/framed_pictures.py --bundle out/bundle --corpus out/pictures [--strangers FOLDER] [--every N]
        [--name NAME] [--json] [--save]

By the looks of the bundle's items alone, whatever encoder it has. `before` is the rule without margins: the picture as
it is. Wrong: another item is recognised, an item with the same file aside. `left out`: the items' pictures once more
while themselves, their near duplicates and whatever their plain picture is recognised as are unknown: every recognition
is wrong. `--strangers`, a folder of pictures of somebody else: likewise. Beside it the rival of `own_pictures.py`, the
nearest thumbnail at a root mean square of up to 10 levels. `ms` is processor time of a query: before, and in addition.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import Aim, aim, arguments, emit

# Beside this script lies triton.py, which torch would take for its own triton.
sys.path.remove(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
from frames import FRAMES, framed
from numpy.typing import NDArray
from own_pictures import THUMBNAIL_LEVELS, Item, items_of, percent, thumbnail

from attributary.bundle.bundle import Bundle
from attributary.pictures import decode, prepare_pixels
from attributary.pictures import framed as margins_rule
from attributary.pictures.margins import overview
from attributary.pictures.recognise import Known, Shown

KINDS = {"as it is": lambda image: image} | FRAMES


class Recogniser:
    """The items' looks; asked with a picture's bytes."""

    def __init__(self, bundle: Bundle, items: Sequence[Item]) -> None:
        assert bundle.looks is not None
        self.size = bundle.manifest.encoder.image_size
        self.known = Known.of(np.asarray(bundle.looks))
        squares = [prepare_pixels(decode(item.data), self.size) for item in items]
        self.small = np.stack([thumbnail(square) for square in squares])
        self.spent = np.zeros(2)
        self.asked = 0

    def ask(self, data: bytes, hidden: NDArray[np.int64] | None = None) -> tuple[set[int], set[int], int]:
        """Rows that are recognised without margins and with them, and the thumbnail's, -1 where none is near."""
        picture = decode(data)
        square = prepare_pixels(picture, self.size)
        rows = np.arange(len(self.known.looks))
        known = self.known
        if hidden is not None:
            rows = np.delete(rows, hidden)
            known = Known(known.looks[rows], known.signs[rows], known.standing[rows])
        times = [process_time()]
        found = before = Shown(square).closest(known)
        times.append(process_time())
        if not before.size and (seen := overview(picture)) is not None:
            found = margins_rule.framed(seen, self.size, known)
        times.append(process_time())
        self.spent += np.diff(times)
        self.asked += 1
        levels = np.sqrt(((self.small[rows] - thumbnail(square)) ** 2).mean(axis=1))
        near = int(rows[levels.argmin()]) if levels.min() <= THUMBNAIL_LEVELS else -1
        return set(rows[before].tolist()), set(rows[found].tolist()), near

    def price(self) -> dict[str, float]:
        """Milliseconds a query since the last time."""
        before, more = (round(1e3 * spent / self.asked, 2) for spent in self.spent)
        self.spent[:], self.asked = 0, 0
        return {"before_ms": before, "more_ms": more}


def copies(recogniser: Recogniser, items: Sequence[Item]) -> list[dict[str, Any]]:
    rows = []
    for kind, change in KINDS.items():
        print(kind, file=sys.stderr, flush=True)
        told = []
        for item in items:
            before, found, near = recogniser.ask(framed(item.data, change))
            told.append(
                (bool(before & item.same), bool(found & item.same), bool(found) and not found & item.same,
                 near in item.same)
            )  # fmt: skip
        names = ("before_pct", "recognised_pct", "another_pct", "thumbnail_pct")
        shares = {name: percent(column) for name, column in zip(names, zip(*told, strict=True), strict=True)}
        rows.append({"copy": kind, "items": len(items)} | shares | recogniser.price())
    return rows


def wrong(
    recogniser: Recogniser, what: str, asked: Sequence[tuple[bytes, NDArray[np.int64] | None]]
) -> list[dict[str, Any]]:
    """Pictures that are none of those that are known."""
    rows = []
    for kind, change in KINDS.items():
        print(what, kind, file=sys.stderr, flush=True)
        told = [recogniser.ask(framed(data, change), hidden) for data, hidden in asked]
        rows.append(
            {
                "pictures": what, "copy": kind, "count": len(told),
                "before_pct": percent([bool(before) for before, _, _ in told]),
                "recognised_pct": percent([bool(found) for _, found, _ in told]),
                "thumbnail_pct": percent([near >= 0 for _, _, near in told]),
            }
            | recogniser.price()
        )  # fmt: skip
    return rows


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="corpus directory with the items' pictures"
    )
    parser.add_argument("--strangers", type=Path, help="folder of pictures by others")
    parser.add_argument("--every", type=int, default=1, help="ask for every so-manieth item and stranger")
    parser.add_argument("--name", default="", help="of the bundle, in the saved file's name")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    everything = items_of(bundle, options.corpus, 1)
    if bundle.looks is None or len(everything) != len(bundle.items):
        raise SystemExit(f"{options.bundle}: has no looks, or {options.corpus} lacks pictures of its items")
    recogniser = Recogniser(bundle, everything)
    items = everything[:: options.every]
    tables = {"copies": copies(recogniser, items)}
    groups = bundle.items.group_of_row
    left_out = []
    for item in items:
        alike = np.flatnonzero(groups == groups[item.row])
        shown = np.fromiter(recogniser.ask(item.data)[0], np.int64)
        left_out.append((item.data, np.union1d(np.union1d(alike, shown), [item.row])))
    tables["wrong"] = wrong(recogniser, "items left out", left_out)
    if options.strangers is not None:
        files = sorted(path for path in options.strangers.rglob("*") if path.suffix in (".png", ".jpg"))
        others = [(path.read_bytes(), None) for path in files[:: options.every]]
        tables["wrong"] += wrong(recogniser, "by others", others)
    script = "_".join(part for part in (Path(__file__).stem, options.name) if part)
    emit(script, {"every": options.every}, tables, aims_of(tables), options.json)


def aims_of(tables: dict[str, Any]) -> list[Aim]:
    """Every kind of frame; cuts are told without an aim."""
    framed_ones = [row for row in tables["copies"] if not row["copy"].endswith("cut")]
    least = min(row["recognised_pct"] for row in framed_ones)
    found = [aim("framed copies recognised, worst kind", least, 90.0, "%", least >= 90.0)]
    for what in dict.fromkeys(row["pictures"] for row in tables["wrong"]):
        most = max(row["recognised_pct"] for row in tables["wrong"] if row["pictures"] == what)
        found.append(aim(f"{what}, recognised, worst kind", most, 1.0, "%", most <= 1.0))
    return found


if __name__ == "__main__":
    main()
