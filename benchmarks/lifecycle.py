"""What does changing a bundle cost, and does an opt-out cost the others anything?

python benchmarks/lifecycle.py --bundle out/demo/bundle --corpus out/corpus [--json] [--save]

On a copy of the bundle. Recall@10 is that of the candidates after re-scoring, against exact search over the items that
are left, on probes (cropped, recoloured items of creators who stay; half with their caption): before, with a creator
who has 1% of the items deleted, with items added, and after compaction. Time of a query with the bundle as built,
with deletions, and with additions too; of an acknowledged addition and deletion; of a compaction.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import aim, arguments, emit, interleaved
from numpy.typing import NDArray

from attributary.attribution.engine import Engine
from attributary.attribution.open import open_engine
from attributary.attribution.snapshot import Snapshot
from attributary.attribution.types import Filter, Options, Query
from attributary.building.embed import Probes, make_probes
from attributary.building.source import Source, read_source
from attributary.delta.entry import Terms
from attributary.delta.items import NewItem
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.index.tuning import exact_neighbours, recall

WHO, WHY = "benchmark", "to measure"


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=Path("out/demo/bundle"))
    parser.add_argument("--corpus", type=Path, default=Path("out/corpus"))
    parser.add_argument("--probes", type=int, default=1_000)
    parser.add_argument("--additions", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        place = Path(shutil.copytree(given.bundle, Path(home) / "bundle"))
        with Store(place, lambda path: open_engine(path, encoder_threads=2)) as store:
            measure(store, read_source(given.corpus), given)


def measure(store: Store, source: Source, given: Any) -> None:
    """One life of a bundle."""
    engine = store.engine
    assert engine is not None
    creator, items = one_percent(engine.snapshot)
    probes = make_probes(source, engine.encoder, engine.tokenizer, given.probes, 1, 2, lambda *_: None)
    staying = rows_of_others(engine, source, probes, creator)
    questions = probes.embeddings[staying]
    state: list[dict[str, Any]] = [row("as built", engine, questions)]
    built = engine.snapshot

    started = time.perf_counter()
    gone = store.delete(Selection(creator=creator), who=WHO, why=WHY).ids
    delete_ms = (time.perf_counter() - started) * 1e3
    assert len(gone) == items
    state.append(row("1% deleted", engine, questions))
    thinned = engine.snapshot

    new = additions(source, given.additions)
    started = time.perf_counter()
    for start in range(0, len(new), 8):
        store.add(new[start : start + 8], terms=Terms(bring_back=True), who=WHO, why=WHY)
    add_ms = (time.perf_counter() - started) * 1e3 / len(new)
    state.append(row("and items added", engine, questions))
    grown = engine.snapshot

    waits = [acknowledged(store, item_id) for item_id in thinned_ids(thinned, 20)]
    spent = timed(
        {"as built": built, "1% deleted": thinned, "and items added": grown}, engine, questions, given.rounds
    )
    started = time.perf_counter()
    store.compact(who=WHO, why=WHY)
    compact_s = time.perf_counter() - started
    engine = store.engine
    assert engine is not None
    state.append(row("compacted", engine, questions))
    for entry in state:
        entry["query_us"] = spent.get(entry["state"])

    back = found_again(engine, questions, gone)
    lost = max(state[0]["recall_at_10"] - entry["recall_at_10"] for entry in (state[1], state[-1]))
    emit(
        "lifecycle",
        {
            "bundle": str(given.bundle),
            "deleted": f"{len(gone)} items of one creator, {len(gone) / len(built.bundle.items):.2%}",
            "added": len(new),
            "probes": len(questions),
        },
        {
            "states": state,
            "changes": [
                {"what": "delete a creator, acknowledged", "value": delete_ms, "unit": "ms"},
                {"what": "delete an item, acknowledged (median)", "value": float(np.median(waits)), "unit": "ms"},
                {"what": "add an item, embedded and acknowledged, 8 together", "value": add_ms, "unit": "ms"},
                {"what": "compact, verified and in place", "value": compact_s, "unit": "s"},
            ],
        },
        [
            aim("recall@10 lost for the rest by deleting 1%", lost, 0.0, "", lost <= 0.002, "met within 0.002"),
            aim("deleted items in answers", float(back), 0, "items", back == 0),
        ],
        given.json,
    )  # fmt: skip


def one_percent(snapshot: Snapshot) -> tuple[str, int]:
    """The creator whose share of the items is nearest to 1%, and how many items that is."""
    counts = snapshot.filters.creators
    code = int(np.argmin(np.abs(counts / counts.sum() - 0.01)))
    return snapshot.bundle.items.creator_names[code], int(counts[code])


def rows_of_others(engine: Engine, source: Source, probes: Probes, creator: str) -> NDArray[np.int64]:
    """Places of the probes whose item stays and is in the bundle."""
    ids = source.table["id"].to_numpy()
    items = engine.bundle.items
    rows = [items.row_of(int(ids[row])) for row in probes.rows.tolist()]
    return np.array(
        [place for place, row in enumerate(rows) if row is not None and items.creator(row) != creator]
    )


def row(state: str, engine: Engine, questions: NDArray[np.float32]) -> dict[str, Any]:
    """Recall of what a query sees now, and how many items there are."""
    snapshot = engine.snapshot
    assert snapshot.index is not None
    count = snapshot.bundle.manifest.index.candidates
    alive = None if snapshot.alive is None else snapshot.filters.compile(Filter()).bitmap
    kept = np.arange(len(snapshot.bundle.items)) if snapshot.alive is None else np.flatnonzero(snapshot.alive)
    exact = kept[exact_neighbours(snapshot.vectors_of(kept), questions, 10)]
    found = np.concatenate(
        [
            snapshot.index.search(questions[start : start + 64], count, alive)
            for start in range(0, len(questions), 64)
        ]
    )
    return {"state": state, "items": snapshot.item_count, "recall_at_10": recall(found, exact)}


def timed(
    snapshots: dict[str, Snapshot], engine: Engine, questions: NDArray[np.float32], rounds: int
) -> dict[str, float]:
    """Median microseconds of one embedding query, by the snapshot that it sees."""
    now = engine.snapshot
    turn = 0

    def asking(snapshot: Snapshot) -> Any:
        def ask() -> None:
            nonlocal turn
            engine.snapshot = snapshot
            engine.attribute(Query(embedding=questions[turn % len(questions)]), Options(top_k=10))
            turn += 1

        return ask

    seconds = interleaved({name: asking(snapshot) for name, snapshot in snapshots.items()}, rounds, settle=1)
    engine.snapshot = now
    return {name: value * 1e6 for name, value in seconds.items()}


def additions(source: Source, count: int) -> list[NewItem]:
    """Items that are there already, under ids of their own and other names."""
    chosen = np.random.default_rng(2).choice(len(source), min(count, len(source)), replace=False)
    table = source.table.take(chosen).to_pylist()
    return [
        NewItem(-1 - place, source.pictures[at].read_bytes(),
                f"{entry['caption']}, again", "A newcomer", uri="benchmark/")
        for place, (at, entry) in enumerate(zip(chosen.tolist(), table, strict=True))
    ]  # fmt: skip


def thinned_ids(snapshot: Snapshot, count: int) -> list[int]:
    """Ids of items that are there."""
    assert snapshot.alive is not None
    rows = np.random.default_rng(3).choice(np.flatnonzero(snapshot.alive), count, replace=False)
    return [snapshot.bundle.items.id_of(place) for place in rows.tolist()]


def acknowledged(store: Store, item_id: int) -> float:
    """Milliseconds until one deletion is durable and seen."""
    started = time.perf_counter()
    store.delete(Selection(ids=(item_id,)), who=WHO, why=WHY)
    return (time.perf_counter() - started) * 1e3


def found_again(engine: Engine, questions: NDArray[np.float32], gone: tuple[int, ...]) -> int:
    """How many deleted items are in the answers."""
    lost = set(gone)
    answers = [
        engine.attribute(Query(embedding=question), Options(top_k=100)) for question in questions[:100]
    ]
    return sum(item.id in lost for answer in answers for item in answer.items)


if __name__ == "__main__":
    main()
