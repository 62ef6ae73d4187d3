"""What an answer must be, in plain Python: exact search over a dictionary of items."""

import math

import numpy as np


def expected(items, hidden, embedding, calibration, candidates, top_k):
    """Ranked (id, similarity, share), creators' totals, the diffuse and the withheld share, the best similarity.

    `items` maps an id to (vector, creator, group); `hidden` are more of these, which count and are not shown. See
    `attributary.kernels.rescore` for the formula.
    """
    known = {**items, **hidden}
    scored = sorted(
        (
            (float(np.asarray(vector, np.float32) @ embedding), item_id)
            for item_id, (vector, _, _) in known.items()
        ),
        reverse=True,
    )
    inside = scored[:candidates]
    best_similarity = inside[0][0]
    top = max(best_similarity, calibration.background)
    floor = 1 - calibration.diffuse_floor

    def weight(similarity):
        return max(math.exp((similarity - top) / calibration.temperature) - calibration.threshold, 0)

    nobody = math.exp((calibration.background - top) / calibration.temperature)
    best, total = {}, {}
    for similarity, item_id in inside:
        group = known[item_id][2]
        best[group] = max(best.get(group, 0), weight(similarity))
        total[group] = total.get(group, 0) + weight(similarity)
    everything = nobody + sum(best.values())
    shares, creators, withheld = {}, {}, 0.0
    for similarity, item_id in inside:
        _, creator, group = known[item_id]
        share = floor * weight(similarity) / total[group] * best[group] / everything if total[group] else 0.0
        if best_similarity < calibration.ood_similarity:
            share = 0.0
        shares[item_id] = share
        if item_id in items:
            creators[creator] = creators.get(creator, 0) + share
        else:
            withheld += share
    ranked = [(item_id, near, shares.get(item_id, 0.0)) for near, item_id in scored if item_id in items]
    return ranked[:top_k], creators, 1 - sum(shares.values()), withheld, best_similarity


def check(answer, items, hidden, embedding, calibration, candidates, top_k):
    """Hold an answer to `expected`; equal similarities may change places."""
    ranked, creators, diffuse, withheld, best = expected(
        items, hidden, embedding, calibration, candidates, top_k
    )
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
    assert answer.out_of_distribution == (best < calibration.ood_similarity)
