"""From a row of re-scored candidates to an answer in words: ids, captions, creators' names."""

from __future__ import annotations

from attributary.bundle.bundle import Bundle
from attributary.kernels import Rescored

from .types import AttributedItem, Attribution, CreatorShare, Prepared


def assemble(bundle: Bundle, prepared: Prepared, scored: Rescored, row: int, peak: float) -> Attribution:
    """Return the answer to the query of one row; `peak` is its best cosine over the whole index, filter aside."""
    items = bundle.items
    calibration = bundle.manifest.calibration.of(prepared.has_prompt)
    # The kernel knows no floor: it is the same for every item of an answer.
    named = 1.0 - calibration.diffuse_floor
    rows = scored.rows[row, : prepared.top_k].tolist()
    similarity = scored.similarity[row].tolist()
    share = (scored.share[row] * named).tolist()
    found = tuple(
        AttributedItem(
            id=items.id_of(item),
            rank=rank + 1,
            similarity=similarity[rank],
            share=share[rank],
            caption=items.caption(item),
            creator=items.creator(item),
            licence=items.licence(item),
            uri=items.uri(item),
            creator_url=items.creator_url(item),
            near_dup_group=items.near_dup_group(item),
        )
        for rank, item in enumerate(rows)
        if item >= 0
    )
    creators = tuple(
        CreatorShare(items.creator_names[code], total, count)
        for code, total, count in zip(
            scored.creators[row, : prepared.top_creators].tolist(),
            (scored.creator_share[row] * named).tolist(),
            scored.creator_items[row].tolist(),
            strict=False,
        )
        if code >= 0
    )
    return Attribution(
        items=found,
        creators=creators,
        diffuse_share=calibration.diffuse_floor + named * float(scored.diffuse[row]),
        out_of_distribution=peak < calibration.ood_similarity,
        timings=prepared.timings,
    )
