"""`attributary demo`: start a server on a bundle, ask it about generated pictures, and show what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import click
import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attributary.building.from_student import read_queries
from attributary.client.sync import Client
from attributary.client.types import Answer
from attributary.errors import InvalidArgumentError
from attributary.files import read_file
from attributary.pictures import decode
from attributary.pictures.formats import MAX_BYTES
from attributary.plain import plain

from .options import Option, declared
from .process import ServerProcess
from .receipt_files import signing_options, write_and_verify
from .sheet import Pictures, Row, contact_sheet, read_corpus_pictures, read_pictures
from .show import answer_json, percent

_WARM_UP = 3
_WIDE = 100  # cells from which a table has room for captions
_PACKAGE: Final = "attributary_demo"
# What people read in place of the name of the recipe that trained it.
GENERATOR: Final = "emoji reference generator"
_FOLDERS: Final = ("student", "demo-queries")


@dataclass(frozen=True, slots=True)
class _Answered:
    query: DemoQuery
    answer: Answer

    @property
    def found_at(self) -> int | None:
        """Rank of the first item that was expected, None if it is not among the answer's items."""
        return next((item.rank for item in self.answer.items if item.id in self.query.expected), None)

    @property
    def verdict(self) -> str:
        """What came of the expectation, in a few words."""
        foreign = self.query.kind == "foreign"
        if self.answer.out_of_distribution:
            return "flagged, as it should be" if foreign else "flagged"
        if foreign:
            return "not flagged"
        if self.query.kind == "generated":
            wanted = self.query.expected
            hits = sum(item.id in wanted for item in self.answer.items)
            return f"{hits} of the teacher's {len(wanted)}" if wanted else "nothing recorded"
        place = self.found_at
        return f"rank {place}" if place else f"not in the top {len(self.answer.items)}"


@click.command("demo")
@declared
def demo_command(
    bundle: Annotated[
        Path | None, "bundle directory to serve; default: built from the committed student, in --out"
    ] = None,
    query_set: Annotated[Path | None, Option("generated pictures to ask about", "--queries")] = None,
    pictures: Annotated[
        Path | None, "with --queries: folder of the items' pictures, <id>.png, for the contact sheet"
    ] = None,
    corpus: Annotated[
        Path | None, "without --queries: the bundle's corpus; changed copies of its items are asked about"
    ] = None,
    held_out: Annotated[Path | None, "corpus of a creator outside the index"] = None,
    out: Annotated[Path, "report and contact sheet go here, and the bundle if none is given"] = Path(
        "attributary-demo"
    ),
    receipts: Annotated[bool, "ask for signed receipts, by a key made for it, and verify each"] = False,
    drawing_count: Annotated[int, Option("", "--drawings", click.IntRange(min=0))] = 6,
    copy_count: Annotated[int, Option("", "--copies", click.IntRange(min=0))] = 4,
    seed: Annotated[int, ""] = 7,
) -> None:
    """Attribute pictures at a real server; write report.json and contact_sheet.png.

    Without options: the committed student's bundle, and pictures that its generator made (from the package
    attributary-demo, or from models/ of a checkout). Else a bundle and either pictures that its generator made
    (--queries), or held-out drawings and changed copies (--corpus).
    """
    if bundle is None:
        if corpus is not None or query_set is not None:
            raise click.UsageError("--queries and --corpus need --bundle")
        student, query_set = demo_data()
        bundle = built(student, query_set, out / "bundle")
    elif (query_set is None) == (corpus is None):
        raise click.UsageError("give either --queries or --corpus")
    if query_set is not None:
        _run(bundle, generated(query_set), read_pictures(pictures), out, receipts)
    elif corpus is not None:
        queries = copies(corpus, copy_count, seed)
        if held_out is not None:
            queries = drawings(corpus, held_out, drawing_count, seed) + queries
        if not queries:
            raise InvalidArgumentError(
                "queries", "nothing to ask: give --copies or --drawings with --held-out"
            )
        _run(bundle, queries, read_corpus_pictures(corpus), out, receipts)


def _run(bundle: Path, queries: list[DemoQuery], pictures: Pictures, out: Path, receipts: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    signing = signing_options(out / "receipts") if receipts else ()
    with ServerProcess(bundle, *signing) as server, Client(server.address) as client:
        described = client.describe()
        for _ in range(_WARM_UP):
            client.attribute(queries[0].picture)
        answered = [
            _Answered(
                query, client.attribute(query.picture, prompt=query.prompt, timings=True, receipt=receipts)
            )
            for query in queries
        ]
        if receipts:
            verified = [(entry.query.picture, entry.answer) for entry in answered]
            click.echo(plain(write_and_verify(out / "receipts", client, verified)))
    console = Console()
    console.print(
        f"bundle {described.bundle_id}: {described.item_count:,} items by {described.creator_count:,} creators, "
        f"{described.encoder}, {described.index}, recall@10 {described.recall_at_10:.3f}\n"
        f"generator: {described.subject_model}\n",
        markup=False,
    )
    console.print(_table(answered, console.width))
    rows = [
        Row(entry.query.picture, entry.query.title, entry.answer, entry.query.note, entry.query.expected)
        for entry in answered
    ]
    sheet = out / "contact_sheet.png"
    contact_sheet(rows, pictures).save(sheet)
    report = out / "report.json"
    report.write_text(json.dumps(_report(described.bundle_id, answered), indent=1, ensure_ascii=False) + "\n")
    console.print(f"\nwrote {plain(str(sheet))}\nwrote {plain(str(report))}\n", markup=False)
    spent = ", ".join(f"{name} {value:.2f}" for name, value in _median_phases(answered).items())
    console.print(f"where the server's time went, median ms a query: {spent}", markup=False)


def _table(answered: list[_Answered], width: int) -> Table:
    table = Table(
        title="Who influenced these pictures?", title_justify="left", title_style="bold", expand=True
    )
    # Numbers are never cut; titles and names give way.
    columns = [("query", 5), ("found", 6), ("top source", 4), ("creator", 4)]
    if width < _WIDE:
        del columns[2]
    for name, ratio in columns:
        table.add_column(name, overflow="ellipsis", no_wrap=True, ratio=ratio)
    for name in ("share", "diffuse"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for entry in answered:
        top = entry.answer.items[0]
        texts = [entry.query.title, entry.verdict, top.caption, top.creator]
        if width < _WIDE:
            del texts[2]
        table.add_row(
            *(Text(plain(text)) for text in texts), percent(top.share), percent(entry.answer.diffuse_share)
        )
    return table


def _median_phases(answered: list[_Answered]) -> Mapping[str, float]:
    timings = [entry.answer.timings for entry in answered if entry.answer.timings is not None]
    phases = {name: median(timing.phases()[name] for timing in timings) for name in timings[0].phases()}
    return {**phases, "total": median(timing.total for timing in timings)}


def _report(bundle_id: str, answered: list[_Answered]) -> dict[str, Any]:
    return {
        "bundle_id": bundle_id,
        "queries": [
            {
                "title": entry.query.title,
                "kind": entry.query.kind,
                "prompt": entry.query.prompt,
                "expected": {
                    "what": entry.query.note,
                    "item_ids": sorted(entry.query.expected),
                    "found_at_rank": entry.found_at,
                    "verdict": entry.verdict,
                },
                **answer_json(entry.answer),
            }
            for entry in answered
        ],
        "median_phase_ms": _median_phases(answered),
    }


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
