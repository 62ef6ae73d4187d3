"""What `attributary-train own --plan` says beside what was then used: several settings, each run to its end.

    python benchmarks/own_plan.py --cache out/cache [--settings NAME ...] [--json] [--save]

A setting is so many photographs of a Debian package, a tiny generator of a family that was trained on them (or none)
and words for `own`. Used are passes of the denoiser, core seconds of all programs and bytes below --out, as the page at
the road's end tells them; the aim is a factor of 1.5 either way. A constant that says the first setting's figures of
all others stands beside it. Settings that ran are kept in --work, so a killed run goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import Aim, aim, arguments, emit

# Beside this script lies triton.py, which torch would take for its own triton.
sys.path.remove(str(Path(__file__).resolve().parent))

FACTOR = 1.5
FIGURES = ("passes", "core_hours", "disk_gb")
# (photographs, family or none, steps of its training, words of `own`)
SETTINGS: dict[str, tuple[int, str, int, str]] = {
    "without a checkpoint": (60, "", 0, ""),
    "stable-diffusion, 80 candidates of 290": (
        290, "stable-diffusion", 1200,
        "--train 24 --validation 20 --test 6 --nearest 40 --outside 40 --steps 10 --gradient-draws 64 --timesteps 3",
    ),
    "stable-diffusion, every one of 80": (
        80, "stable-diffusion", 800,
        "--train 10 --validation 10 --test 2 --nearest 0 --outside 0 --steps 20 --gradient-draws 256 --timesteps 5",
    ),
    "sd3, 60 candidates of 120": (
        120, "sd3", 800,
        "--train 10 --validation 10 --test 2 --nearest 40 --outside 20 --steps 10 --gradient-draws 64 --timesteps 2",
    ),
}  # fmt: skip


def run_one(name: str, work: Path, cache: Path) -> dict[str, Any]:
    """Make the example, plan, take the road; returns planned, used and their ratios."""
    count, family, steps, words = SETTINGS[name]
    from attributary_train.corpus.fetch import PackageCache
    from attributary_train.corpus.sources.photographs import write_photographs
    from attributary_train.own.running import used_by

    work.mkdir(parents=True, exist_ok=True)
    write_photographs(work, PackageCache(cache), limit=count)
    asked = [
        "--pictures",
        work / "pictures",
        "--captions",
        work / "items.csv",
        "--out",
        work / "mine",
        *words.split(),
    ]
    if family:
        if not (work / "checkpoint").is_dir():
            from attributary_train.own.example import train_example

            train_example(work, family, steps=steps, log=lambda line: None)
        asked += ["--checkpoint", work / "checkpoint"]
        asked += ["--image-size", 32] if family == "flux" else []
    command = [sys.executable, "-m", "attributary_train", "own", *map(str, asked)]
    planned = json.loads(
        subprocess.run([*command, "--plan", "--json"], check=True, capture_output=True).stdout
    )
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    steps_used = used_by(work / "mine").values()
    size = sum(path.stat().st_size for path in (work / "mine").rglob("*") if path.is_file())
    return {
        "planned": {
            "passes": planned["total"], "core_hours": planned["core_hours"], "disk_gb": planned["disk_gb"]
        },
        "used": {
            "passes": sum(step["passes"] for step in steps_used),
            "core_hours": sum(step["core_seconds"] for step in steps_used) / 3600,
            "disk_gb": size / 1e9,
        },
    }  # fmt: skip


def row_of(name: str, found: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """One line of the table; `constant` is how far the first setting's use is from this one's."""
    row: dict[str, Any] = {"setting": name}
    for figure in FIGURES:
        planned, used = found["planned"][figure], found["used"][figure]
        row |= {f"{figure}_planned": round(planned, 4), f"{figure}_used": round(used, 4)}
        if planned:
            row[f"{figure}_ratio"] = round(used / planned, 2)
        if first["used"][figure]:
            row[f"{figure}_constant"] = round(used / first["used"][figure], 2)
    return row


def aims_of(row: dict[str, Any]) -> list[Aim]:
    """Within a factor either way."""
    found = []
    for figure in FIGURES:
        if (ratio := row.get(f"{figure}_ratio")) is not None:
            worst = max(ratio, 1 / ratio) if ratio else float("inf")
            found.append(aim(f"{row['setting']}: {figure}, factor", worst, FACTOR, "x", worst <= FACTOR))
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path("out/cache"), help="folder of downloaded packages")
    parser.add_argument("--work", type=Path, default=Path("out/own-plan"), help="folder of what is made")
    parser.add_argument("--settings", nargs="*", choices=[*SETTINGS], default=[*SETTINGS])
    options = parser.parse_args()
    found = {}
    for name in options.settings:
        work = options.work / name.replace(" ", "-").replace(",", "")
        kept = work / "found.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(run_one(name, work, options.cache)))
        found[name] = json.loads(kept.read_text())
    first = next(iter(found.values()))
    rows = [row_of(name, one, first) for name, one in found.items()]
    told = {name: " ".join(map(str, SETTINGS[name][:3])) for name in found}
    emit(Path(__file__).stem, told, rows, [entry for row in rows for entry in aims_of(row)], options.json)


if __name__ == "__main__":
    main()
