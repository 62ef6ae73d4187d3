"""What an answer must be, in plain Python: exact search over a dictionary of items."""

import math

import numpy as np


def expected(items, hidden, embedding, calibration, candidates, top_k):
    """Ranked (id, similarity, share), creators' totals, the diffuse and the withheld share.

    `items` and `hidden` (deleted, but still counted) map an id to (vector, creator, group). See
    `attributary.kernels.rescore` for the formula.
    """
    everything = {**hidden, **items}

    def similarity(item_id):
        return float(np.asarray(everything[item_id][0], np.float32) @ embedding)

    scored = sorted(((similarity(item_id), item_id) for item_id in everything), reverse=True)
    counted = scored[: min(candidates, len(everything))]
    visible = sorted(((similarity(item_id), item_id) for item_id in items), reverse=True)
    ranked = [(item_id, found, 0.0) for found, item_id in visible[: min(top_k, candidates)]]
    if counted[0][0] < calibration.ood_similarity:
        return ranked, {}, 1.0, 0.0
    top = max(counted[0][0], calibration.background)

    def weight(found):
        return max(math.exp((found - top) / calibration.temperature) - calibration.threshold, 0)

    nobody = math.exp((calibration.background - top) / calibration.temperature)
    best, total = {}, {}
    for found, item_id in counted:
        group = everything[item_id][2]
        best[group] = max(best.get(group, 0), weight(found))
        total[group] = total.get(group, 0) + weight(found)
    norm = nobody + sum(best.values())
    shares, creators, withheld = {}, {}, 0.0
    for found, item_id in counted:
        _, creator, group = everything[item_id]
        share = weight(found) / total[group] * best[group] / norm if total[group] else 0.0
        if item_id in items:
            shares[item_id] = share
            creators[creator] = creators.get(creator, 0) + share
        else:
            withheld += share
    ranked = [(item_id, found, shares.get(item_id, 0.0)) for item_id, found, _ in ranked]
    return ranked, creators, nobody / norm, withheld


def check(answer, items, hidden, embedding, calibration, candidates, top_k):
    """Hold an answer to `expected`; equal similarities may change places."""
    ranked, creators, diffuse, withheld = expected(items, hidden, embedding, calibration, candidates, top_k)
    assert len(answer.items) == len(ranked)
    for item, (_, similarity, share) in zip(answer.items, ranked, strict=True):
        own = float(np.asarray(items[item.id][0], np.float32) @ embedding)
        assert abs(item.similarity - similarity) < 1e-4
        assert abs(own - similarity) < 1e-4
        if abs(own - similarity) < 1e-7:
            assert abs(item.share - share) < 1e-3
    assert abs(answer.diffuse_share - diffuse) < 1e-3
    assert abs(answer.withheld_share - withheld) < 1e-3
    for total in answer.creators:
        assert abs(total.share - creators[total.creator]) < 1e-3
