"""AbU and AbU+ by name; factors are fitted once."""

import pytest

from attributary_train.teacher import unlearning
from attributary_train.teacher.errors import TeacherError
from attributary_train.teacher.registry import Context, create
from tests.unit.teacher.rivals.conftest import data, model, queries  # noqa: F401


def test_methods_by_name_keep_their_factors(model, data, queries, tmp_path, monkeypatch):  # noqa: F811
    context = Context(tmp_path, None, tmp_path)
    settings = {"alpha": 1e-4, "gradient_draws": 8, "timesteps": 2}
    first = create("abu+", context, settings)
    first.fit(data, model)
    scores = first.score(queries, data.ids)

    def refit(*args):
        raise AssertionError("fitted again")

    monkeypatch.setattr(unlearning, "fit_factors", refit)
    second = create("abu+", context, settings)
    second.fit(data, model)
    assert (second.score(queries, data.ids) == scores).all()
    names = [create(name, context, {"timesteps": 2}).name for name in ("abu", "abu+", "abu-sgd")]
    assert names == ["abu", "abu+", "abu-sgd"]
    with pytest.raises(TeacherError, match="does not take these settings"):
        create("abu+", context, {"colour": 1})
