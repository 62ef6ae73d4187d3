"""This house's aims are about its own models: of somebody else's none is told."""

from attributary_train.evaluation.tables import report
from attributary_train.subject.recipe import ADOPTED


def test_aims_are_told_of_models_that_were_trained_here():
    aims = [{"name": "x", "met": False}]
    assert report("s", {}, {}, aims, "small")["aims"] == aims == report("s", {}, {}, aims)["aims"]
    assert report("s", {}, {}, aims, ADOPTED)["aims"] == []
