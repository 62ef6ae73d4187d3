"""Does a bundle know its items' own pictures, changed copies of them, and nothing else?

    python benchmarks/own_pictures.py --bundle out/bundle --corpus out/pictures [--generated-by SUBJECT QUERIES]
        [--strangers FOLDER] [--name NAME] [--json] [--save]

Items are asked for with their own files (no prompt, their caption, another's) and with copies that were encoded and
scaled otherwise, framed or cut; first: the item, or one with the very same file, is named first. `--generated-by`
brings pictures that the generator made (of `attributary-train subject queries`): none is an item's own, so every one
that is recognised is a mistake. `--name` is part of the saved file's: a bundle of pictures that are not square has one
of its own.

`--strangers` is a folder of pictures that somebody else drew: none is an item's either.

Beside it, in the same run and on the same square that the encoder sees: what the bundle's vectors alone name first;
the nearest difference hash (64 bits, a picture of 9 x 8; Krawetz 2013), taken for the item at up to 10 bits; the
nearest thumbnail (16 x 16 RGB), taken for the item at a root mean square of up to 10 levels; and a constant, which
names one item always.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import Aim, aim, arguments, emit
from frames import FRAMES, framed

# Beside this script lies triton.py, which torch would take for its own triton.
sys.path.remove(str(Path(__file__).resolve().parent))

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attributary.attribution.engine import Engine
from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.building.source import read_source
from attributary.errors import AttributaryError
from attributary.pictures import decode, prepare_pixels

Pixels = NDArray[np.uint8]
# At most so many bits, or levels, apart is taken for the same picture.
HASH_BITS, THUMBNAIL_LEVELS = 10, 10.0
PROMPTS = ("no prompt", "its caption", "another's caption")


@dataclass(frozen=True)
class Item:
    """One item: its row in the bundle, its caption, its file's bytes and the rows of all that have this file."""

    row: int
    caption: str
    data: bytes
    same: frozenset[int]


def jpeg(quality: int, scale: float = 1.0) -> Callable[[bytes], bytes]:
    """A copy as JPEG, 4:2:0, after scaling each side."""

    def copy(data: bytes) -> bytes:
        with Image.open(io.BytesIO(data)) as image:
            picture = image.convert("RGB")
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        if size != picture.size:
            picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=quality, subsampling=2)
        return out.getvalue()

    return copy


COPIES = {
    "its own file": lambda data: data,
    "JPEG 90": jpeg(90),
    "JPEG 50": jpeg(50),
    "JPEG 20": jpeg(20),
    "half the size, JPEG 90": jpeg(90, 0.5),
    "half the size, JPEG 30": jpeg(30, 0.5),
    "a quarter of the size, JPEG 90": jpeg(90, 0.25),
}


def items_of(bundle: Any, corpus: Path, every: int) -> list[Item]:
    """Every so-manieth item of the bundle whose picture is in the corpus."""
    source = read_source(corpus)
    where = dict(zip(source.table["id"].to_pylist(), source.pictures, strict=True))
    captions = dict(
        zip(source.table["id"].to_pylist(), map(str, source.table["caption"].to_pylist()), strict=True)
    )
    read = {
        row: where[number].read_bytes()
        for row, number in enumerate(map(bundle.items.id_of, range(len(bundle.items))))
        if number in where and where[number].is_file()
    }
    rows_of: dict[bytes, set[int]] = {}
    for row, data in read.items():
        rows_of.setdefault(data, set()).add(row)
    return [
        Item(row, captions[bundle.items.id_of(row)], data, frozenset(rows_of[data]))
        for row, data in list(read.items())[::every]
    ]


class Rivals:
    """What can be had without a model, over all items of a bundle; rows of the nearest, and whether near enough."""

    def __init__(self, pixels: Sequence[Pixels]) -> None:
        self._bits = np.stack([difference_hash(picture) for picture in pixels])
        self._small = np.stack([thumbnail(picture) for picture in pixels])

    def ask(self, picture: Pixels) -> dict[str, tuple[int, bool]]:
        """The nearest row of each, and whether it is taken for the same picture."""
        far = np.bitwise_count(self._bits ^ difference_hash(picture))
        levels = np.sqrt(((self._small - thumbnail(picture)) ** 2).mean(axis=1))
        return {
            "difference hash": (int(far.argmin()), bool(far.min() <= HASH_BITS)),
            "thumbnail": (int(levels.argmin()), bool(levels.min() <= THUMBNAIL_LEVELS)),
        }


def difference_hash(picture: Pixels) -> np.uint64:
    """64 signs of brightness differences, of uint8 [S, S, 3]."""
    grey = np.asarray(Image.fromarray(picture).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    found: np.uint64 = np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)[0]
    return found


def thumbnail(picture: Pixels) -> NDArray[np.float32]:
    """16 x 16 RGB, float32 [768]."""
    return np.asarray(Image.fromarray(picture).resize((16, 16), Image.Resampling.BOX), np.float32).ravel()


def squares(engine: Engine, data: Sequence[bytes]) -> list[Pixels]:
    """Pictures as the encoder sees them, uint8 [S, S, 3]."""
    size = engine.bundle.manifest.encoder.image_size
    return [prepare_pixels(decode(raw), size) for raw in data]


def by_vectors(engine: Engine, queries: Sequence[Query]) -> list[int]:
    """Rows that the vectors alone put first."""
    vectors = np.asarray(engine.bundle.vectors, np.float32)
    prepared = [engine.prepare(query, Options(top_k=1)) for query in queries]
    found = [engine.embed(prepared[at : at + 16]) for at in range(0, len(prepared), 16)]
    return [int((vectors @ row).argmax()) for part in found for row in part]


def asked_with_prompts(engine: Engine, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Own files with each prompt: first, flagged, median share; and first by the vectors alone."""
    rows = []
    for kind in PROMPTS:
        queries = []
        for at, item in enumerate(items):
            other = items[(at + len(items) // 2) % len(items)].caption
            prompt = {"no prompt": "", "its caption": item.caption}.get(kind, other)
            queries.append(Query(image=item.data, prompt=prompt))
        row_of = engine.bundle.items.row_of
        answers = [engine.attribute(query, Options(top_k=1)) for query in queries]
        first = [row_of(answer.items[0].id) in item.same for answer, item in zip(answers, items, strict=True)]
        alone = [row in item.same for row, item in zip(by_vectors(engine, queries), items, strict=True)]
        rows.append(
            {
                "asked_with": kind,
                "items": len(items),
                "first_pct": percent(first),
                "flagged_pct": percent([answer.out_of_distribution for answer in answers]),
                "share_median": round(float(np.median([answer.items[0].share for answer in answers])), 4),
                "vectors_alone_first_pct": percent(alone),
                "constant_first_pct": percent([0 in item.same for item in items]),
            }
        )
    return rows


def changed(
    engine: Engine, rivals: Rivals, items: Sequence[Item], kinds: Mapping[str, Callable[[bytes], bytes]]
) -> list[dict[str, Any]]:
    """Copies without a prompt: first, flagged, another item recognised; the same of the rivals."""
    rows = []
    for kind, copy in kinds.items():
        told: dict[str, list[bool]] = {}
        for item in items:
            prepared = engine.prepare(Query(image=copy(item.data)), Options(top_k=1))
            (answer,) = engine.run([prepared])
            shown, pixels = set(prepared.showing.tolist()), prepared.pixels
            assert pixels is not None
            found = {"first": engine.bundle.items.row_of(answer.items[0].id) in item.same}
            found["recognised"] = bool(shown & item.same)
            found["recognised_as_another"] = bool(shown) and not shown & item.same
            found["flagged"] = answer.out_of_distribution
            for name, (row, near) in rivals.ask(pixels).items():
                found[f"{name} recognises"] = near and row in item.same
                found[f"{name} another"] = near and row not in item.same
            for name, value in found.items():
                told.setdefault(name, []).append(value)
        rows.append({"copy": kind, "items": len(items)} | {f"{k}_pct": percent(v) for k, v in told.items()})
    return rows


def foreign(engine: Engine, rivals: Rivals, kind: str, made: Sequence[Pixels]) -> dict[str, Any]:
    """Pictures that are no item's, taken for one."""
    shown = [bool(engine.snapshot.showing(picture).size) for picture in made]
    asked = [rivals.ask(picture) for picture in made]
    row = {
        "pictures": kind,
        "count": len(made),
        "recognised_pct": percent(shown),
        "recognised": int(sum(shown)),
    }
    for name in asked[0]:
        row[f"{name} recognises_pct"] = percent([answer[name][1] for answer in asked])
    return row


def generated(engine: Engine, subject: Path, queries: Path) -> list[Pixels]:
    """Pictures of a file of `subject queries`, as the encoder sees them."""
    from attributary_train.generators.latents import decode as draw
    from attributary_train.subject.checkpoint import load_autoencoder, load_subject
    from attributary_train.subject.queries import load_queries

    found = load_queries(queries, load_subject(subject))
    autoencoder, size = load_autoencoder(subject), engine.bundle.manifest.encoder.image_size
    out = []
    for at in range(0, len(found), 32):
        drawn = draw(autoencoder, found.latents[at : at + 32])
        out += [prepare_pixels(picture, size) for picture in drawn]
    return out


def percent(values: Sequence[bool]) -> float:
    """Of those that hold."""
    return round(100 * float(np.mean(values)), 2)


def drawn_by_others(engine: Engine, folder: Path) -> list[Pixels]:
    """Pictures of a folder."""
    files = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")
    )
    return squares(engine, [path.read_bytes() for path in files])


def measure(
    bundle: Path, corpus: Path, every: int, made_by: Sequence[Path] | None, strangers: Path | None
) -> dict[str, Any]:
    """All tables of one bundle."""
    engine = open_engine(bundle)
    items = items_of(engine.bundle, corpus, every)
    if not items:
        raise SystemExit(f"{corpus}: holds no picture of an item of {bundle}")
    everything = items_of(engine.bundle, corpus, 1)
    if len(everything) != len(engine.bundle.items):
        raise SystemExit(
            f"{corpus}: holds {len(everything)} of the {len(engine.bundle.items)} items of {bundle}"
        )
    rivals = Rivals(squares(engine, [item.data for item in everything]))
    tables = {"own": asked_with_prompts(engine, items), "copies": changed(engine, rivals, items, COPIES)}
    framings = {kind: partial(framed, change=change) for kind, change in FRAMES.items()}
    tables["framed"] = changed(engine, rivals, items, framings)
    others = []
    if made_by is not None:
        others.append(foreign(engine, rivals, "generated", generated(engine, *made_by)))
    if strangers is not None:
        others.append(foreign(engine, rivals, "drawn by others", drawn_by_others(engine, strangers)))
    return tables | ({"no item's picture": others} if others else {})


def aims_of(tables: dict[str, Any]) -> list[Aim]:
    """What the README says of own pictures."""
    first = min(row["first_pct"] for row in tables["own"])
    flagged = max(row["flagged_pct"] for row in tables["own"])
    copies = min(row["first_pct"] for row in tables["copies"])
    found = [
        aim("own files named first, worst of three prompts", first, 100.0, "%", first >= 100.0),
        aim("own files flagged", flagged, 0.0, "%", flagged <= 0.0),
        aim("changed copies named first, worst kind", copies, 99.0, "%", copies >= 99.0),
    ]
    for row in tables.get("no item's picture", []):
        wrong = row["recognised_pct"]
        found.append(aim(f"{row['pictures']}, recognised", wrong, 0.5, "%", wrong <= 0.5))
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="corpus directory with the items' pictures"
    )
    parser.add_argument("--name", default="", help="of the bundle, in the saved file's name")
    parser.add_argument("--generated-by", type=Path, nargs=2, metavar=("SUBJECT", "QUERIES"))
    parser.add_argument("--strangers", type=Path, help="folder of pictures by others")
    parser.add_argument("--every", type=int, default=1, help="ask for every so-manieth item")
    options = parser.parse_args()
    try:
        tables = measure(
            options.bundle, options.corpus, options.every, options.generated_by, options.strangers
        )
    except AttributaryError as error:
        raise SystemExit(f"{options.bundle}: {error}") from error
    script = "_".join(part for part in (Path(__file__).stem, options.name) if part)
    emit(script, {"every": options.every}, tables, aims_of(tables), options.json)


if __name__ == "__main__":
    main()
