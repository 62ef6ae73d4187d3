"""Does an item that is deleted and added back get the shares that it had?

    python benchmarks/added_back.py --bundle out/bundle --corpus out/pictures [--json] [--save]

Asks a copy of a bundle with the demo's generated pictures, deletes the first item of every answer, adds each back with
the same picture, caption and creator under a new number, and asks again. Told: the largest change of any item's share,
beside the largest share itself, which is what a deletion alone would move.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from common import ROOT, aim, arguments, emit

from attributary.attribution.open import open_engine
from attributary.attribution.types import Attribution, Options, Query
from attributary.delta.entry import Terms
from attributary.delta.items import NewItem
from attributary.delta.selection import Selection
from attributary.delta.store import Store

QUERIES = ROOT / "models" / "demo-queries"
FIRST = 10**15


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="corpus with the items' pictures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(shutil.copytree(options.bundle, Path(scratch) / "bundle"))
        rows = measure(bundle, options.corpus)
    worst = max(float(row["changed"]) for row in rows)
    aims = [aim("largest change of a share", worst, 0.005, "share", worst <= 0.005)]
    emit("added_back", {"bundle": options.bundle.name, "queries": len(rows)}, rows, aims, options.json)


def measure(bundle: Path, corpus: Path) -> list[dict[str, float | str]]:
    """A row a query."""
    files = {row["id"]: row["file"] for row in pq.read_table(corpus / "items.parquet").to_pylist()}
    before = ask(bundle)
    firsts = list(dict.fromkeys(answer.items[0].id for answer in before.values()))
    with Store(bundle, open_engine) as store:
        snapshot = store.snapshot
        gone = [snapshot.bundle.items.record(snapshot.row_of(number)) for number in firsts]
        store.delete(Selection(ids=tuple(firsts)), who="benchmark", why="to be added back")
        for place, item in enumerate(gone):
            picture = (corpus / files[item.id]).read_bytes()
            back = NewItem(
                FIRST + place, picture, item.caption, item.creator, licence=item.licence, uri=item.uri
            )
            may = Terms(bring_back=True)
            (failed,) = store.add([back], who="benchmark", why="back", terms=may).outcomes
            if failed is not None:
                raise failed
    now_called = {FIRST + place: number for place, number in enumerate(firsts)}
    rows: list[dict[str, float | str]] = []
    for name, answer in ask(bundle).items():
        told = {item.id: item.share for item in before[name].items}
        again = {now_called.get(item.id, item.id): item.share for item in answer.items}
        changed = max(abs(told.get(key, 0.0) - again.get(key, 0.0)) for key in told | again)
        rows.append({"query": name, "largest": max(told.values()), "changed": changed})
    return rows


def ask(bundle: Path) -> dict[str, Attribution]:
    """Answers to the demo's generated pictures, all items that are named."""
    engine, answers = open_engine(bundle), {}
    for entry in json.loads((QUERIES / "queries.json").read_text())["queries"]:
        if entry["generated"]:
            query = Query(image=(QUERIES / entry["file"]).read_bytes(), prompt=entry["prompt"])
            answers[entry["file"]] = engine.attribute(query, Options(top_k=1000))
    return answers


if __name__ == "__main__":
    main()
