"""How long from starting a server to its first answer, and to opening a bundle? A fresh process each time.

    benchmarks/cold_start.py --bundle out/bundle --json

The answer is to a picture of the size that generators make. Files lie in the page cache, byte code is there, as pip
leaves it. `cpu_s` is what the server's
process used until its first answer; it depends less than the clock on a machine's neighbours.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import aim as held
from common import arguments, emit
from serving import ROOT, cpu_seconds, served

OPEN = """
import sys
from pathlib import Path
from time import perf_counter
import attributary.attribution.open as opening
begun = perf_counter()
opening.open_engine(Path(sys.argv[1]))
print(perf_counter() - begun)
"""


def picture() -> bytes:
    """Return a JPEG of 512 x 512."""
    from PIL import Image

    out = io.BytesIO()
    side = np.arange(512, dtype=np.uint8)
    Image.fromarray(np.stack([side[None] ^ side[:, None]] * 3, axis=2)).save(out, "JPEG", quality=90)
    return out.getvalue()


def start(bundle: Path, data: bytes) -> dict[str, float]:
    """Measure one start, in seconds."""
    from attributary.client import Client

    begun = perf_counter()
    with served(bundle, []) as (port, pid):
        ready = perf_counter() - begun
        with Client(f"127.0.0.1:{port}") as client:
            client.attribute(data)
        return {"ready_s": ready, "first_answer_s": perf_counter() - begun, "cpu_s": cpu_seconds(pid)}


def opened(bundle: Path) -> float:
    """Return how long a fresh process opens a bundle, imports included but Python's own start, in seconds."""
    command = [sys.executable, "-c", OPEN, str(bundle)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure and tell."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=ROOT / "out/bundle")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    data = picture()
    with tempfile.TemporaryDirectory() as folder:
        # The first start fills it: an environment that writes none would compile every module in each.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        start(options.bundle, data)
        starts = [start(options.bundle, data) for _ in range(options.rounds)]
        opens = [opened(options.bundle) for _ in range(options.rounds)]
    row: dict[str, Any] = {
        name: round(statistics.median(each[name] for each in starts), 3) for name in starts[0]
    }
    row["most_first_answer_s"] = round(max(each["first_answer_s"] for each in starts), 3)
    row["open_s"] = round(statistics.median(opens), 3)
    value = row["first_answer_s"]
    aims = [held("from start to first answer", value, 2, "s", value <= 2, f"of it CPU {row['cpu_s']:.2f} s")]
    emit("cold_start", {"rounds": options.rounds}, [row], aims, options.json)


if __name__ == "__main__":
    main()
