"""Encoded pictures of 1,024 px as queries to the gateway, by format; two installations beside each other, where given.

    python benchmarks/picture_queries.py --bundle out/bundle [--json] [--save]
    python benchmarks/picture_queries.py --bundle out/bundle --before OLD/bin/python OLD/bundle

The second line also serves an older release's bundle with that release, and sends both the same bytes in turns. The
floor is `pixels`: the same pictures decoded and shrunk by the caller, which is what a gateway costs without a decoder.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from common import Aim, aim, arguments, emit
from decode import contents, encoded
from PIL import Image
from serving import BUNDLES, Child, cpu_seconds, first_existing, served

FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG"},
    "JPEG": {"format": "JPEG", "quality": 90},
    "WebP": {"format": "WEBP", "quality": 90},
}
NOW, BEFORE = "now", "before"


def write_inputs(path: Path, pictures: list[Image.Image], options: dict[str, Any], image_size: int) -> float:
    """Write the requests' contents; return the mean size of an encoded picture in bytes."""
    data = [encoded(picture, options) for picture in pictures]
    small = [
        np.asarray(picture.resize((image_size, image_size), Image.Resampling.BICUBIC)) for picture in pictures
    ]
    np.savez(
        path, images=np.array(data, object), pixels=np.stack(small), embeddings=np.empty((0, 0), np.float32)
    )
    return float(np.mean([len(picture) for picture in data]))


def judge(rows: list[dict[str, Any]]) -> list[Aim]:
    """Nothing may have become slower than it was."""
    cells = {(row["format"], row["concurrency"], row["release"]): row for row in rows}
    found = []
    for (name, concurrency, release), row in cells.items():
        if release == NOW and (old := cells.get((name, concurrency, BEFORE))):
            ratio = row["queries_per_s"] / old["queries_per_s"]
            note = f"{row['queries_per_s']:.1f} of {old['queries_per_s']:.1f} per second"
            title = f"{name}, {concurrency} at once, queries a second over the older release's"
            found.append(aim(title, ratio, 1.0, "x", ratio >= 1.0, note))
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=first_existing(BUNDLES))
    parser.add_argument(
        "--before", nargs=2, metavar=("PYTHON", "BUNDLE"), help="an older installation and its bundle"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--image-size", type=int, default=64, help="side that the bundle's encoder reads")
    options = parser.parse_args()
    pictures = [picture.rotate(90 * turn) for picture in contents(options.size).values() for turn in range(4)]
    cells: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    facts = []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {NOW: stack.enter_context(served(options.bundle, []))}
        if options.before:
            python, bundle = options.before
            servers[BEFORE] = stack.enter_context(served(Path(bundle), [], python))
        loads: dict[tuple[str, str], Child] = {}
        for name, encoding in FORMATS.items():
            inputs = place / f"{name}.npz"
            size = write_inputs(inputs, pictures, encoding, options.image_size)
            facts.append({"format": name, "mean_bytes": round(size)})
            for release, (port, _) in servers.items():
                loads[name, release] = Child("load", f"127.0.0.1:{port}", str(inputs))
                stack.callback(loads[name, release].close)
        for number in range(options.rounds):
            for name in (*FORMATS, "pixels"):
                for concurrency in options.concurrency:
                    for release in list(servers)[:: 1 if number % 2 == 0 else -1]:
                        child = loads["PNG" if name == "pixels" else name, release]
                        pid = servers[release][1]
                        before = cpu_seconds(pid)
                        kind = "pixels" if name == "pixels" else "image"
                        found = child.ask(kind=kind, concurrency=concurrency, seconds=options.seconds)
                        found["cpu_ms"] = 1e3 * (cpu_seconds(pid) - before) / found["queries"]
                        cells.setdefault((name, concurrency, release), []).append(found)
    rows = [
        {
            "format": name,
            "concurrency": concurrency,
            "release": release,
            **{
                figure: round(statistics.median(cell[figure] for cell in found), 3)
                for figure in ("queries_per_s", "p50_ms", "p99_ms", "cpu_ms")
            },
        }
        for (name, concurrency, release), found in cells.items()
    ]
    config = {
        name: getattr(options, name) for name in ("rounds", "seconds", "concurrency", "size", "image_size")
    }
    emit(Path(__file__).stem, config, {"queries": rows, "pictures": facts}, judge(rows), options.json)


if __name__ == "__main__":
    main()
