"""How memory and time of labelling grow with the training set: Fashion-MNIST at several sizes, one process each.

`python benchmarks/training_set.py --sizes 1000 10000 60000` takes pictures of the Debian package
dataset-fashion-mnist, adopts a tiny Stable-Diffusion-style pipeline with random weights (what it costs does not depend
on them), and labels a few queries on a few candidates. Told are the seconds and the memory of each step, their slopes
per item, and what follows for 118,287 items (COCO) and 400 million, with its arithmetic.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# In place of this folder, whose triton.py would be taken for the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

# Pixels of a side: small, so that 60,000 pictures take minutes; what is kept of each scales with it.
SIZE = 16
# Labels of a Stable Diffusion at 512 pixels, float16: latents 4 x 64 x 64, states 77 x 768.
SD_BYTES = 2 * (4 * 64 * 64 + 77 * 768)
PLANNED = {"COCO": 118_287, "LAION-400M": 400_000_000}


class Numbers:
    """Fashion-MNIST as the corpus that `load_data` and the teacher read: items of one caption a class."""

    def __init__(self, pictures: Any, classes: Any, root: Path) -> None:
        from attributary_train.corpus.item import Item
        from attributary_train.corpus.sources.fashion_mnist import CLASSES

        self.pictures, self.root = pictures, root
        known = dict.fromkeys(Item.__dataclass_fields__, "")
        self.items = []
        for at, kind in enumerate(classes):
            facts: dict[str, Any] = dict(known)
            facts |= {"id": at, "key": str(at), "caption": f"a {CLASSES[kind]}", "sha256": f"{at:064x}"}
            facts |= {"keywords": (), "near_dup_group": at}
            self.items.append(Item(**{name: facts[name] for name in known}))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Any:
        return iter(self.items)

    def __contains__(self, number: int) -> bool:
        return 0 <= number < len(self.items)

    def item(self, number: int) -> Any:
        """One item."""
        return self.items[number]

    def is_own(self, number: int) -> bool:
        """All are."""
        return True

    def select(self, ids: Any) -> Numbers:
        """All of them: the training set is the corpus."""
        return self

    def square(self, number: int, size: int) -> Any:
        """uint8 [size, size, 3]."""
        small = np.asarray(Image.fromarray(self.pictures[number]).resize((size, size), Image.Resampling.BOX))
        return np.repeat(small[:, :, None], 3, axis=2)


def pictures_of(cache: Path, count: int) -> tuple[Any, Any]:
    """The first pictures, uint8 [N, 28, 28], and their classes; the others are not kept in memory."""
    from attributary_train.corpus.fetch import PackageCache
    from attributary_train.corpus.pins import FASHION_MNIST
    from attributary_train.corpus.sources.fashion_mnist import fashion_pictures

    pictures, classes = fashion_pictures(PackageCache(cache).debian(FASHION_MNIST)[0])
    return pictures[:count].copy(), classes[:count].copy()


def child(count: int, cache: Path, queries: int) -> dict[str, Any]:
    """One size in this process; returns seconds of CPU and peak memory in MB after each step."""
    import torch

    torch.set_num_threads(1)
    from attributary_train.generators import adopting
    from attributary_train.generators.tiny import tiny_pipeline
    from attributary_train.subject.checkpoint import load_subject, recipe_of, training_data
    from attributary_train.subject.pictures import squares
    from attributary_train.subject.queries import Prompt, generate
    from attributary_train.teacher.abu import Abu, AbuSettings
    from attributary_train.teacher.ekfac import FactorSettings

    told: list[dict[str, float]] = []
    anonymous = Path("/proc/self/status")

    def note(step: str, began: float) -> None:
        lines = dict(line.split(":", 1) for line in anonymous.read_text().splitlines() if ":" in line)
        told.append(
            {
                "step": step,  # type: ignore[dict-item]
                "core_seconds": round(time.process_time() - began, 2),
                # What is mapped from a file can be dropped and read again; what is anonymous cannot.
                "anonymous_mb": round(int(lines["RssAnon"].split()[0]) / 1024, 1),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
        )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures, classes = pictures_of(cache, count)
        corpus: Any = Numbers(pictures, classes, folder)
        note("start", time.process_time())
        tiny_pipeline("stable-diffusion", image_size=SIZE).save_pretrained(folder / "checkpoint")
        began = time.process_time()
        squares(corpus, SIZE, folder / "cache")
        note("squares", began)
        began = time.process_time()
        adopting.adopt_pipeline(
            folder / "checkpoint", corpus, folder / "subject", cache=folder / "cache", log=lambda line: None
        )
        note("encode", began)
        began = time.process_time()
        model = load_subject(folder / "subject")
        data = training_data(model, folder / "subject", corpus, folder / "cache")
        note("open", began)
        began = time.process_time()
        settings = AbuSettings(
            fisher="diagonal", target_change=None, alpha=0.01, gradient_draws=64, timesteps=1,
            factors=FactorSettings(draws=1, backend="torch"),
        )  # fmt: skip
        from attributary_train.teacher.fisher_diagonal import fit_diagonal

        factors = fit_diagonal(model, data, settings.factors)
        note("factors", began)
        began = time.process_time()
        teacher = Abu(settings, factors=factors)
        teacher.fit(data, model, baseline=folder / "baseline.npy")
        note("baseline", began)
        asked = generate(
            model,
            [Prompt("a bag", "seen", "train", at) for at in range(queries)],
            recipe_of(model).tokens,
            steps=2,
        )
        began = time.process_time()
        candidates = np.arange(min(400, count), dtype=np.int64)
        teacher.score(asked, data.ids[candidates])
        note("label", began)
        size = {
            part.name.split("-")[0]: part.stat().st_size for part in sorted((folder / "cache").glob("*.npy"))
        }
    return {"items": count, "steps": told, "bytes": size}


def slopes(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Least squares over the sizes: what one more item costs each step."""
    rows = []
    items = np.array([run["items"] for run in runs], np.float64)
    for at, step in enumerate(entry["step"] for entry in runs[0]["steps"]):
        row: dict[str, Any] = {"step": step}
        for name, scale, unit in (("core_seconds", 1e3, "ms_an_item"), ("anonymous_mb", 1024, "kb_an_item")):
            values = np.array([run["steps"][at][name] for run in runs])
            row[unit] = round(float(np.polyfit(items, values, 1)[0]) * scale, 4)
        rows.append(row)
    return rows


def plan(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the slopes say of larger sets, and files of a Stable Diffusion at 512 pixels, with the arithmetic."""
    kb = max(row["kb_an_item"] for row in rows)
    out = []
    for name, count in PLANNED.items():
        memory = count * max(0.0, kb) / 1024**2
        out.append(
            {
                "set": name,
                "items": count,
                "memory_gb": round(memory, 2),
                "memory_by": f"{count:,} x {kb} KB, the largest slope of a step",
                "files_gb": round(count * SD_BYTES / 1e9, 1),
                "files_by": f"{count:,} x {SD_BYTES:,} bytes (4 x 64 x 64 and 77 x 768, float16), mapped",
            }
        )
    return out


def main() -> None:
    """Run and print, or write with --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000, 60000])
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument(
        "--cache", type=Path, default=Path("out/cache"), help="Folder of downloaded packages."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    parser.add_argument("--out", type=Path, help="Write the JSON to a file.")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(child(options.child, options.cache, options.queries)))
        return
    from attributary_train.evaluation.tables import commit, machine

    runs: list[dict[str, Any]] = []
    for size in options.sizes:
        command = [sys.executable, __file__, "--child", str(size), "--queries", str(options.queries)]
        done = subprocess.run([*command, "--cache", str(options.cache)], check=True, stdout=subprocess.PIPE)
        runs.append(json.loads(done.stdout.decode().strip().splitlines()[-1]))
        print(json.dumps(runs[-1]), file=sys.stderr)
        rows = slopes(runs) if len(runs) > 1 else []
        report = {
            "script": "training_set",
            "machine": machine(),
            "commit": commit(),
            "config": {"sizes": options.sizes, "queries": options.queries, "candidates": 400},
            "results": {"runs": runs, "slopes": rows, "plan": plan(rows) if rows else []},
            "aims": [],
        }
        text = json.dumps(report, indent=1)
        if options.out is not None:
            # After each size: the largest takes longest, and may be stopped.
            options.out.write_text(text + "\n")
    print(
        text if options.json else "\n".join(json.dumps(row) for row in [*rows, *(plan(rows) if rows else [])])
    )


if __name__ == "__main__":
    main()
