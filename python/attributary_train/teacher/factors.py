"""EK-FAC factors of a model: fitted once, kept under one key, whichever method asks.

They are fitted by kronfluence where it is installed, else by `ekfac_torch`; both give the same.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, require_finite
from attributary_train.teacher import ekfac_kronfluence, ekfac_torch
from attributary_train.teacher.draws import LossGrid
from attributary_train.teacher.ekfac import Factors, FactorSettings, load_factors, save_factors
from attributary_train.teacher.parameters import module_names

# Part of the key of kept factors. 2: pseudo-targets belong to (item, caption, timestep), not to a batch's place.
VERSION = 2


def kept_factors(
    model: SubjectModel, data: SubjectData, settings: FactorSettings, folder: Path | None
) -> Factors:
    """Factors from `folder`, fitted first if they are not there; the key is all that decides them. None keeps nothing.

    Raises `TeacherError` if the kept file is damaged, cannot be written, or a factor is not finite.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            return fit_factors(model, data, settings, Path(scratch))
    identity = {**asdict(settings), "version": VERSION, "weights": model.weights, "data": data.digest}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"factors-{key}.safetensors"
    if path.exists():
        return load_factors(path, model)
    factors = fit_factors(model, data, settings, folder)
    save_factors(factors, path)
    return factors


def fit_factors(model: SubjectModel, data: SubjectData, settings: FactorSettings, scratch: Path) -> Factors:
    """Fit on the training set; `scratch` is a folder for kronfluence's files. Raises `TeacherError` on NaN."""
    names = module_names(model.unet, settings.parameters)
    backend = settings.backend
    if backend == "auto":
        # kronfluence is checked on CPUs; where the denoiser is on a GPU, so are the sums of the torch backend.
        here = next(model.unet.parameters()).device.type == "cpu"
        backend = "kronfluence" if here and importlib.util.find_spec("kronfluence") else "torch"
    grid = LossGrid.of(model, data, settings.draws, draw=1_000 + settings.seed)
    fit = ekfac_kronfluence.fit if backend == "kronfluence" else ekfac_torch.fit
    layers = fit(model, data, grid, names, settings, scratch)
    for name, layer in layers.items():
        for part in (layer.activation, layer.gradient, layer.eigenvalues):
            require_finite(part, f"Fisher factor of {name}")
    facts: dict[str, object] = {
        "version": VERSION,
        "backend": backend,
        "parameters": settings.parameters,
        "draws": settings.draws,
        "sampled": settings.sampled,
        "seed": settings.seed,
        "data": data.digest,
        "items": len(data),
    }
    return Factors(layers, model.weights, facts)
