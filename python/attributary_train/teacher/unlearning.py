"""AbU and AbU+ for the registry."""

from __future__ import annotations

from typing import Any, Literal

from attributary_train.teacher.abu import Abu, AbuSettings
from attributary_train.teacher.ekfac import FactorSettings
from attributary_train.teacher.registry import Context


def _make(context: Context, fisher: Literal["ekfac", "diagonal", "none"], values: dict[str, Any]) -> Abu:
    settings = dict(values)
    if "alpha" in settings or "papers_alpha" in settings:
        settings.setdefault("target_change", None)
    if "parameters" in settings:
        settings["factors"] = FactorSettings(parameters=settings["parameters"])
    return Abu(
        AbuSettings(fisher=fisher, **settings), scratch=context.cache / "factors", device=context.device
    )


def abu_plus(context: Context, **settings: Any) -> Abu:
    """AbU+: EK-FAC."""
    return _make(context, "ekfac", settings)


def abu(context: Context, **settings: Any) -> Abu:
    """AbU: the diagonal of the Fisher information."""
    return _make(context, "diagonal", settings)


def abu_sgd(context: Context, **settings: Any) -> Abu:
    """Plain ascent without Fisher information; the papers' ablation, near random."""
    return _make(context, "none", settings)
