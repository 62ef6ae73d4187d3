"""AbU and AbU+ for the registry: factors of a model are fitted once and kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel
from attributary_train.teacher.abu import Abu, AbuSettings
from attributary_train.teacher.ekfac import (
    VERSION,
    FactorSettings,
    fit_factors,
    load_factors,
    save_factors,
)
from attributary_train.teacher.registry import Context


class KeptAbu(Abu):
    """AbU+ whose EK-FAC factors are read from `folder` if they were fitted with the same settings on the same data."""

    def __init__(self, settings: AbuSettings, folder: Path, device: str = "cpu") -> None:
        super().__init__(settings, scratch=folder, device=device)
        self._folder = folder

    def fit(self, data: SubjectData, model: SubjectModel, *, baseline: Path | None = None) -> None:
        """As `Abu.fit`; the factors are kept between runs."""
        model.unet.to(self.device)
        if self.settings.fisher == "ekfac" and self._factors is None:
            self._factors = kept_factors(model, data, self.settings.factors, self._folder)
        super().fit(data, model, baseline=baseline)


def kept_factors(model: SubjectModel, data: SubjectData, settings: FactorSettings, folder: Path) -> Any:
    """Factors from `folder`, fitted first if they are not there."""
    asked = {**asdict(settings), "version": VERSION, "weights": model.weights, "data": data.digest}
    about = json.dumps(asked, sort_keys=True)
    path = folder / f"factors-{hashlib.sha256(about.encode()).hexdigest()[:16]}.safetensors"
    if path.exists():
        return load_factors(path, model)
    factors = fit_factors(model, data, settings, folder)
    save_factors(factors, path)
    return factors


def _make(context: Context, fisher: Literal["ekfac", "diagonal", "none"], values: dict[str, Any]) -> KeptAbu:
    settings = dict(values)
    if "alpha" in settings or "papers_alpha" in settings:
        settings.setdefault("target_change", None)
    if "parameters" in settings:
        settings["factors"] = FactorSettings(parameters=settings["parameters"])
    return KeptAbu(AbuSettings(fisher=fisher, **settings), context.cache / "factors", context.device)


def abu_plus(context: Context, **settings: Any) -> KeptAbu:
    """AbU+: EK-FAC."""
    return _make(context, "ekfac", settings)


def abu(context: Context, **settings: Any) -> KeptAbu:
    """AbU: the diagonal of the Fisher information."""
    return _make(context, "diagonal", settings)


def abu_sgd(context: Context, **settings: Any) -> KeptAbu:
    """Plain ascent without Fisher information; the papers' ablation, near random."""
    return _make(context, "none", settings)
