"""Does a student place items that it never saw where its teacher would?

    python benchmarks/left_out_items.py --subject models/subject-emoji --corpus out/corpus \
      --queries models/truth/emoji/queries.parquet --scores dtrak-train.npz --item-scores items.npz \
      --truth dtrak-validation.npz --rival middle_block-validation.npz [--json] [--save]

Every tenth item is left out of everything that a `generator-placed` student learns from; its encoder then places it by
picture and caption, as an item is placed that is added to a bundle. Told, over validation queries: rank correlation
with the teacher over the left-out items alone, of this student, of one that saw all items, and of a rival; a constant
has none.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from common import aim, arguments, emit

# Beside this script lies triton.py, which torch would take for its own triton.
sys.path.remove(str(Path(__file__).resolve().parent))

import numpy as np
import torch
from numpy.typing import NDArray

from attributary_train.evaluation.ranking import spearman_rows
from attributary_train.evaluation.scores import load_scores
from attributary_train.evaluation.stats import mean_interval
from attributary_train.student.config import config_named
from attributary_train.student.generator_fitting import Lesson, fit_generator
from attributary_train.student.generator_making import Sight, full_lists, items_as_queries
from attributary_train.student.studio import Studio

EVERY = 10
Scores = NDArray[np.float32]


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__.splitlines()[0])
    for name in ("subject", "corpus", "queries", "scores", "item-scores", "truth", "rival"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("out/cache/subject"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    studio = Studio.open(options.subject, options.corpus, options.queries, options.cache)
    queries, ids = studio.queries.split("validation"), studio.subject.data.ids
    truth, rival = (load_scores(path).aligned(queries.names, ids) for path in (options.truth, options.rival))
    out = np.arange(0, len(ids), EVERY)
    told = {
        "saw all items": answers(studio, options, np.arange(len(ids))),
        "never saw these items": answers(studio, options, np.setdiff1d(np.arange(len(ids)), out)),
        "rival": rival,
    }
    rows: list[dict[str, Any]] = []
    for name, scores in told.items():
        found = mean_interval(spearman_rows(truth[:, out], scores[:, out]))
        rows.append({"student": name, "spearman": found.value, "low": found.low, "high": found.high})
    kept = rows[1]["spearman"] / rows[0]["spearman"]
    config = {
        "items": len(ids),
        "left out": len(out),
        "queries": len(queries),
        "rival": load_scores(options.rival).method,
    }
    aims = [aim("kept of the agreement with the teacher", kept, 0.9, "share", kept >= 0.9)]
    emit("left_out_items", config, rows, aims, options.json)


def answers(studio: Studio, options: Namespace, kept: NDArray[np.int64]) -> Scores:
    """Cosines of validation queries with all items, [Q, N], of a student that learns from the kept items alone."""
    config = config_named("generator-placed")
    sight = Sight(studio, config)
    labels = studio.scored([options.scores])
    placed, asked = sight.placed(config), studio.labelled_queries(labels)
    rows, scores = items_as_queries(studio, options.item_scores)
    kept_rows = np.isin(rows, kept)
    between = scores[kept_rows][:, kept]
    lessons = [Lesson(sight.queries(asked), full_lists(labels)[:, kept])]
    lessons += [Lesson(view.take(rows[kept_rows]), between) for view in [*sight.items(config), *placed]]
    fitted = fit_generator(
        config,
        [view.take(kept) for view in placed],
        studio.subject.data.empty.float(),
        lessons,
        say=lambda line: print(line, file=sys.stderr),
        foreign=sight.foreign(asked, config),
    )
    with torch.no_grad():
        seen, shown = sight.queries(studio.queries.split("validation")), placed[0]
        query = fitted.query(seen.image, seen.states, seen.mask)
        items = fitted.query(shown.image, shown.states, shown.mask)
    return np.asarray((query @ items.T).numpy(), np.float32)


if __name__ == "__main__":
    main()
