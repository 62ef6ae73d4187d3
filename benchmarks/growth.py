"""How do build time, memory, opening and a query grow with the number of items? One bundle a size, built as users do.

    python benchmarks/growth.py --bundle out/demo/bundle --corpus out/corpus --counts 10000 100000 1000000 [--save]

Inputs are the layout that clip-retrieval leaves: the bundle's own vectors first, with their pictures, then copies of
them with noise half their length, captions and creators in proportion. `attributary bundle build --embeddings` makes
each bundle in a process of its own (wall and CPU seconds, peak memory, files mapped by it among that); a fresh process
opens it (`open_s`, hashes and golden queries too), then answers embedding queries alone. An exponent is the slope
of log cost over log items between the smallest and the largest size: 1 grows as the items do, 0 not at all. A million
items take some 4 GB below `--folder` and three minutes, ten million ten times the room and a quarter of an hour; each
is told at once on the way.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import Aim, aim, arguments, emit

PART = 100_000  # rows a file
NOISE = 0.5
QUERIES = 300
OPENING_S = {1_000_000: 3, 10_000_000: 10}
WORDS = (
    "a red fox",
    "two boats",
    "the old town",
    "in winter",
    "by a lake",
    "line drawing",
    "at night",
    "of paper",
)
OPEN = """
import json, resource, sys
from pathlib import Path
from time import perf_counter, process_time
begun = perf_counter()
import numpy as np
import attributary.attribution.open as opening
from attributary.attribution.types import Options, Query
imported = perf_counter()
engine = opening.open_engine(Path(sys.argv[1]), encoder_threads=1)
opened = perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
vectors = engine.bundle.vectors
rng = np.random.default_rng(1)
found = vectors[rng.integers(0, len(vectors), int(sys.argv[2]))].astype(np.float32)
wall, cpu = [], []
for row in found + rng.normal(0, 0.02, found.shape).astype(np.float32):
    at, busy = perf_counter(), process_time()
    engine.attribute(Query(embedding=row), Options(top_k=10))
    wall.append(perf_counter() - at); cpu.append(process_time() - busy)
index = engine.bundle.manifest.index
print(json.dumps({
    "import_s": imported - begun, "open_s": opened - imported, "opened_mib": peak / 1024,
    "query_ms": 1e3 * float(np.median(wall)), "query_cpu_ms": 1e3 * float(np.median(cpu)),
    "p99_ms": 1e3 * float(np.percentile(wall, 99)), "index": index.factory, "recall_at_10": index.recall_at_10,
    "candidates": index.candidates, "index_bytes_per_item": index.bytes_per_item,
}))
"""


def write_inputs(bundle: Path, corpus: Path, count: int, folder: Path) -> None:
    """Leave `img_emb/` and `metadata/` of `count` items in `folder`."""
    own = np.load(bundle / "vectors.npy", mmap_mode="r")
    items = pq.read_table(bundle / "items.parquet")
    files = pq.read_table(corpus / "items.parquet", columns=["id", "file"]).to_pydict()
    by_id = dict(zip(files["id"], files["file"], strict=True))
    real = [by_id.get(number) for number in items["id"].to_pylist()]
    captions = items["caption"].to_pylist()
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, count, PART)):
        rng = np.random.default_rng(start)
        rows = np.arange(start, min(start + PART, count))
        copied = rows >= len(own)
        vectors = own[np.where(copied, rng.integers(0, len(own), len(rows)), rows % len(own))].astype(
            np.float32
        )
        noise = rng.standard_normal((int(copied.sum()), own.shape[1]), np.float32)
        vectors[copied] += NOISE * noise / math.sqrt(own.shape[1])
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", vectors.astype(np.float16))
        words = [
            ", ".join(WORDS[word] for word in some) for some in rng.integers(0, len(WORDS), (len(rows), 4))
        ]
        for place, row in enumerate(rows[~copied].tolist()):
            words[place] = captions[row]
        pq.write_table(
            pa.table(
                {
                    "id": rows,
                    "caption": words,
                    "creator": [f"creator {who}" for who in rng.integers(0, max(2, count // 20), len(rows))],
                    "licence_spdx": ["CC-BY-4.0"] * len(rows),
                    "url": [f"https://example.org/pictures/{row}.jpg" for row in rows.tolist()],
                    "image_path": pa.array(
                        [real[row] if row < len(own) else None for row in rows], pa.string()
                    ),
                }
            ),
            folder / "metadata" / f"metadata_{number}.parquet",
        )


def build(options: argparse.Namespace, inputs: Path, out: Path) -> dict[str, float]:
    """Build a bundle in a process of its own; its seconds and peak MiB."""
    command = [sys.executable, "-m", "attributary.cli.main", "bundle", "build", "--embeddings", str(inputs)]
    command += ["--encoder", str(options.bundle), "--pictures", str(options.corpus), "--out", str(out)]
    begun = time.perf_counter()
    process = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the build of {inputs} failed; its error is above")
    return {
        "build_s": time.perf_counter() - begun,
        "build_cpu_s": used.ru_utime + used.ru_stime,
        "build_mib": used.ru_maxrss / 1024,
    }


def measure(options: argparse.Namespace, count: int, folder: Path) -> dict[str, Any]:
    """One size: inputs, build, open, ask."""
    inputs, out = folder / "inputs", folder / "bundle"
    write_inputs(options.bundle, options.corpus, count, inputs)
    built = build(options, inputs, out)
    shutil.rmtree(inputs)
    command = [sys.executable, "-c", OPEN, str(out), str(QUERIES)]
    told = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(options.rounds)
    ]
    opened = {
        key: float(np.median([one[key] for one in told])) if isinstance(value, float) else value
        for key, value in told[0].items()
    }
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    return {"items": count, **built, **opened, "disk_mib": size / 2**20}


def exponents(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Slopes of log cost over log items, from the smallest to the largest size, and over the last step."""
    found = []
    for name in (
        "build_s",
        "build_cpu_s",
        "build_mib",
        "open_s",
        "opened_mib",
        "query_ms",
        "query_cpu_ms",
        "disk_mib",
    ):
        whole, last = (
            math.log(rows[-1][name] / first[name]) / math.log(rows[-1]["items"] / first["items"])
            for first in (rows[0], rows[-2])
        )
        found.append({"cost": name, "exponent": round(whole, 3), "last_step": round(last, 3)})
    return found


def main() -> None:
    """Measure and tell."""
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--bundle", type=Path, default=Path("out/demo/bundle"), help="made from --corpus by its encoder"
    )
    parser.add_argument("--corpus", type=Path, default=Path("out/corpus"))
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes that open a bundle")
    parser.add_argument("--folder", type=Path, help="for inputs and bundles; default: a temporary one")
    options = parser.parse_args()
    rows = []
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for count in sorted(options.counts):
            rows.append(measure(options, count, Path(folder) / str(count)))
            print(f"{count:,} items: {rows[-1]}", file=sys.stderr, flush=True)
    aims: list[Aim] = []
    for row in rows:
        most = OPENING_S.get(row["items"])
        if most is not None:
            aims.append(
                aim(f"opening {row['items']:,} items", row["open_s"], most, "s", row["open_s"] <= most)
            )
    results = {"sizes": rows, **({"exponents": exponents(rows)} if len(rows) > 1 else {})}
    emit(
        "growth", {"counts": options.counts, "noise": NOISE, "queries": QUERIES}, results, aims, options.json
    )


if __name__ == "__main__":
    main()
