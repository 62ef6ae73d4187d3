"""What an answer must be, in plain Python: exact search over a dictionary of items."""

import math

import numpy as np


def expected(items, embedding, calibration, candidates, top_k):
    """Ranked (id, similarity, share), creators' totals and the diffuse share.

    `items` maps an id to (vector, creator, group). See `attributary.kernels.rescore` for the formula.
    """
    scored = sorted(
        (
            (float(np.asarray(vector, np.float32) @ embedding), item_id)
            for item_id, (vector, _, _) in items.items()
        ),
        reverse=True,
    )[: min(max(candidates, top_k), len(items))]
    top = max(scored[0][0], calibration.background)

    def weight(similarity):
        return max(math.exp((similarity - top) / calibration.temperature) - calibration.threshold, 0)

    nobody = math.exp((calibration.background - top) / calibration.temperature)
    best, total = {}, {}
    for similarity, item_id in scored:
        group = items[item_id][2]
        best[group] = max(best.get(group, 0), weight(similarity))
        total[group] = total.get(group, 0) + weight(similarity)
    everything = nobody + sum(best.values())
    ranked, creators = [], {}
    for similarity, item_id in scored:
        _, creator, group = items[item_id]
        share = weight(similarity) / total[group] * best[group] / everything if total[group] else 0.0
        ranked.append((item_id, similarity, share))
        creators[creator] = creators.get(creator, 0) + share
    return ranked[:top_k], creators, nobody / everything


def check(answer, items, embedding, calibration, candidates, top_k):
    """Hold an answer to `expected`; equal similarities may change places."""
    ranked, creators, diffuse = expected(items, embedding, calibration, candidates, top_k)
    assert len(answer.items) == len(ranked)
    for item, (_, similarity, share) in zip(answer.items, ranked, strict=True):
        own = float(np.asarray(items[item.id][0], np.float32) @ embedding)
        assert abs(item.similarity - similarity) < 1e-4
        assert abs(own - similarity) < 1e-4
        if abs(own - similarity) < 1e-7:
            assert abs(item.share - share) < 1e-3
    assert abs(answer.diffuse_share - diffuse) < 1e-3
    for total in answer.creators:
        assert abs(total.share - creators[total.creator]) < 1e-3
    assert answer.out_of_distribution == (ranked[0][1] < calibration.ood_similarity)
