"""What the demo serves and asks: pictures of the generator; or copies of items and known concepts in another hand."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance

from attributary.building.queries import read_queries
from attributary.errors import InvalidArgumentError
from attributary.files import read_file
from attributary.pictures import decode
from attributary.pictures.formats import MAX_BYTES
from attributary.plain import plain

_PACKAGE: Final = "attributary_demo"
# What people read in place of the name of the recipe that trained it.
GENERATOR: Final = "emoji reference generator"
_FOLDERS: Final = ("student", "demo-queries")


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """One question and the items that may be expected in its answer."""

    kind: str  # "generated", "foreign", "copy" or "drawing"
    title: str
    note: str  # what is expected, in words
    picture: bytes  # encoded
    prompt: str
    expected: frozenset[int]


def demo_data() -> tuple[Path, Path]:
    """Return the student and the queries: of the package attributary-demo, else of models/ below here.

    Raises InvalidArgumentError that says how to get them.
    """
    found = find_spec(_PACKAGE)
    places = [Path(place) for place in (found.submodule_search_locations or [])] if found else []
    for place in (*places, Path("models")):
        student, queries = (place / name for name in _FOLDERS)
        if student.is_dir() and queries.is_dir():
            return student, queries
    raise InvalidArgumentError(
        "bundle", "must be given: neither the package attributary-demo nor models/ of a checkout is here"
    )


def built(student: Path, queries: Path, out: Path) -> Path:
    """Return the student's bundle in `out`, built (in seconds) unless it is there already."""
    if not (out / "manifest.json").is_file():
        from attributary.building.from_student import build_from_student

        click.echo(f"building {plain(str(out))} from {plain(str(student))}", err=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        build_from_student(student, student / "items.parquet", queries, out, generator=GENERATOR)
    return out


def generated(directory: Path) -> list[DemoQuery]:
    """Pictures of the generator with their prompts, and pictures that it did not make, from `queries.json`.

    What is expected of a generated picture is the teacher's ten best items, where they were recorded.
    """
    queries = []
    for query in read_queries(directory):
        data = read_file(query.path, "queries")
        queries.append(
            DemoQuery(
                kind="generated" if query.generated else "foreign",
                title=str(query.facts.get("title", query.path.stem)),
                note=str(query.facts.get("note", "")),
                picture=data,
                prompt=query.prompt,
                expected=frozenset(int(number) for number in query.facts.get("expected", ())),
            )
        )
    return queries


def copies(corpus: Path, count: int, seed: int) -> list[DemoQuery]:
    """Items that were cropped, recoloured and saved as JPEG; the item, or a near duplicate of it, is expected."""
    items = _items(corpus)
    rng = np.random.default_rng(seed)
    queries = []
    for place in rng.choice(len(items), min(count, len(items)), replace=False).tolist():
        item = items[place]
        group = item.get("near_dup_group", item["id"])
        same = frozenset(other["id"] for other in items if other.get("near_dup_group", other["id"]) == group)
        queries.append(
            DemoQuery(
                kind="copy",
                title=f"copy of: {item['caption']}",
                note="cropped, recoloured, JPEG",
                picture=_changed(_picture(corpus, item), rng),
                prompt="",
                expected=same,
            )
        )
    return queries


def drawings(corpus: Path, held_out: Path, count: int, seed: int) -> list[DemoQuery]:
    """Drawings by a creator outside the index of concepts that others in it have drawn."""
    by_concept: dict[str, set[int]] = {}
    for item in _items(corpus, "concept_id"):
        by_concept.setdefault(item["concept_id"], set()).add(item["id"])
    known = [
        item for item in _items(held_out, "concept_id") if len(by_concept.get(item["concept_id"], ())) >= 2
    ]
    rng = np.random.default_rng(seed)
    queries = []
    for place in rng.choice(len(known), min(count, len(known)), replace=False).tolist():
        item = known[place]
        queries.append(
            DemoQuery(
                kind="drawing",
                title=f"{item['caption']}",
                note=f"by {item['creator']}, not indexed",
                picture=_picture(held_out, item),
                prompt=item["caption"],
                expected=frozenset(by_concept[item["concept_id"]]),
            )
        )
    return queries


def _items(corpus: Path, *extra: str) -> list[dict[str, Any]]:
    path = corpus / "items.parquet"
    if not path.is_file():
        raise InvalidArgumentError("corpus", f"{path} does not exist; build the corpus first")
    table = pq.read_table(path)
    for name in extra:
        if name not in table.column_names:
            raise InvalidArgumentError("corpus", f"{path} has no column {name}")
    wanted = ("id", "caption", "creator", "near_dup_group", "file", *extra)
    return table.select([name for name in wanted if name in table.column_names]).to_pylist()


def _picture(corpus: Path, item: dict[str, Any]) -> bytes:
    name = item.get("file")
    found = corpus / name if name else next((corpus / "images").glob(f"*/{item['id']}.png"), None)
    if found is None or not found.is_file():
        raise InvalidArgumentError("corpus", f"{corpus} has no picture of item {item['id']}")
    return found.read_bytes()


def _changed(data: bytes, rng: np.random.Generator) -> bytes:
    picture = Image.fromarray(decode(data, max_bytes=max(MAX_BYTES, len(data))))
    width, height = picture.size
    left, top, right, bottom = rng.uniform(0.02, 0.1, 4)
    window = (int(left * width), int(top * height), int((1 - right) * width), int((1 - bottom) * height))
    picture = picture.crop(window)
    picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.4, 1.6))
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.8, 1.15))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
