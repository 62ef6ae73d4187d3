"""JSON that every reader takes."""

import json

import numpy as np

from attributary_train.evaluation.strict_json import strict_json


def test_what_is_not_finite_is_null():
    told = {
        "a": [float("nan"), np.float64("inf"), 1.5, (2, -float("inf"))],
        "b": {"c": "NaN", "d": None, "e": True},
    }
    text = strict_json(told)
    assert json.loads(text, parse_constant=lambda word: 1 / 0) == {
        "a": [None, None, 1.5, [2, None]],
        "b": {"c": "NaN", "d": None, "e": True},
    }
