"""AbU and AbU+ by name; factors are fitted once."""

import pytest

from attributary_train.errors import TeacherError
from attributary_train.teacher import factors
from attributary_train.teacher.abu import Abu, AbuSettings
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

    monkeypatch.setattr(factors, "fit_factors", refit)
    second = create("abu+", context, settings)
    second.fit(data, model)
    assert (second.score(queries, data.ids) == scores).all()
    names = [create(name, context, {"timesteps": 2}).name for name in ("abu", "abu+", "abu-sgd")]
    assert names == ["abu", "abu+", "abu-sgd"]
    with pytest.raises(TeacherError, match="does not take these settings"):
        create("abu+", context, {"colour": 1})


def test_all_methods_share_one_file_of_factors(model, data, tmp_path, monkeypatch):  # noqa: F811
    context = Context(tmp_path, None, tmp_path)
    create("abu+", context, {"alpha": 1e-4, "gradient_draws": 8, "timesteps": 2}).fit(data, model)
    monkeypatch.setattr(factors, "fit_factors", lambda *_: pytest.fail("fitted again"))
    influence = create("ekfac_influence", context)
    influence.fit(data, model)
    labels = Abu(
        AbuSettings(alpha=1e-4, target_change=None, gradient_draws=8, timesteps=2),
        scratch=tmp_path / "factors",
    )
    labels.fit(data, model)
    assert len(list((tmp_path / "factors").iterdir())) == 1
    assert labels.factors.digest == influence._state[1].digest
