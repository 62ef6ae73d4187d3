"""Configurations compared: each fitted to the same labels, each measured on validation queries alone."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attributary_train.errors import StudentError
from attributary_train.evaluation.tables import report
from attributary_train.files import write_text

from .config import StudentConfig
from .fitting import Material, fit
from .kernel_head import TokenKernel
from .labelled import Labelled
from .measuring import against_labels, table_row
from .sight import ItemPictures, Seen
from .studio import Studio

Row = dict[str, Any]


def run_sweep(
    studio: Studio,
    configs: Sequence[StudentConfig],
    labels: Labelled,
    validation: Labelled,
    keep: Path | None,
    say: Callable[[str], None],
) -> Row:
    """A line a configuration and kind of query, baselines first; finished lines are kept in `keep`."""
    labelled = studio.labelled_queries(validation)
    if set(labelled.splits) != {"validation"}:
        splits = ", ".join(sorted(set(labelled.splits)))
        raise StudentError("labels-validation", f"are of {splits}; configurations are chosen on validation")
    seen, kinds = studio.see(labelled), labelled.kinds
    queries = studio.see(studio.labelled_queries(labels))
    pictures: set[ItemPictures] = {config.items for config in configs} | {"decoded"}
    items = {kind: studio.see_items(kind) for kind in sorted(pictures)}
    material = {kind: Material(queries, seen_items, labels) for kind, seen_items in items.items()}
    lines = _baselines(seen, items["decoded"], validation, kinds)
    for config in configs:
        facts = json.dumps([config.to_json(), labels.digest, validation.digest], sort_keys=True)
        path = (
            keep / f"{config.name}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}.json" if keep else None
        )
        if path is not None and path.exists():
            lines += json.loads(path.read_text())
            continue
        found = _line(config, material[config.items], seen, validation, kinds, say)
        if path is not None:
            write_text(path, json.dumps(found), StudentError)
        lines += found
    content = {
        "model": studio.subject.model.weights,
        "labels": labels.digest,
        "queries": len(labels),
        "candidates": int(labels.rows.shape[1]),
        "validation": validation.digest,
        "validation_queries": len(validation),
        "note": "re-ranking of the labelled candidates; L is counted from all items",
        "configs": [config.to_json() for config in configs],
    }
    return report("student-sweep", content, {"validation": lines}, [])


def _line(
    config: StudentConfig,
    material: Material,
    seen: Seen,
    validation: Labelled,
    kinds: Sequence[str],
    say: Callable[[str], None],
) -> list[Row]:
    began = time.process_time()
    try:
        fitted = fit(config, material, say)
    except StudentError as error:
        # A configuration that cannot be trained is a result too.
        return [{"student": config.name, "error": str(error)}]
    seconds = round(time.process_time() - began, 1)
    views = [("prompt", seen, True), ("no prompt", seen.without_prompt(), True)]
    if config.free_items:
        views.append(("prompt, items from head", seen, False))
    out = []
    for name, view, refined in views:
        rows = against_labels(fitted.scores(view, refined=refined), validation)
        out.append(table_row(config.name, name, rows, kinds))
    out[0] |= {"cpu_seconds": seconds, "loss": round(fitted.loss, 4), "scale": round(fitted.scales[0], 2)}
    return out


def _baselines(seen: Seen, items: Seen, validation: Labelled, kinds: Sequence[str]) -> list[Row]:
    """Chance, raw features, and the exact kernel without embedding or training."""

    def pooled(side: Seen) -> torch.Tensor:
        mask = side.mask[:, :, None]
        return torch.nn.functional.normalize((side.states * mask).sum(1) / mask.sum(1).clamp(min=1.0), dim=1)

    unit = torch.nn.functional.normalize
    image = unit(seen.image, dim=1) @ unit(items.image, dim=1).T
    text = pooled(seen) @ pooled(items).T
    kernel = TokenKernel(items, StudentConfig("kernel").whitening).of(seen)
    chance = np.random.default_rng(0).random(image.shape, np.float32)
    found = {
        "chance": chance,
        "image": image.numpy(),
        "text": text.numpy(),
        "joined": (0.5 * (image + text)).numpy(),
        "kernel, exact": kernel.numpy(),
    }
    return [
        table_row(name, "baseline", against_labels(values, validation), kinds)
        for name, values in found.items()
    ]
