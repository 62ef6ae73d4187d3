"""AbU and AbU+: attribution by unlearning the query and watching which training losses rise.

AbU: Wang et al., "Data Attribution for Text-to-Image Models by Unlearning Synthesized Images", NeurIPS 2024 (diagonal
Fisher). AbU+: Wang et al., "Fast Data Attribution for Text-to-Image Models", NeurIPS 2025 (EK-FAC). One ascent step
on the query's loss, preconditioned by the inverse Fisher information F:

    theta' = theta + a F^-1 grad L(query, theta)        score(z) = L(z, theta') - L(z, theta)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attributary_train.errors import TeacherError
from attributary_train.subject.data import SubjectData
from attributary_train.subject.model import SubjectModel, require_finite
from attributary_train.subject.queries import Queries
from attributary_train.teacher.base import Cost
from attributary_train.teacher.baseline import baseline_digest, kept_baseline
from attributary_train.teacher.draws import LossGrid, query_draws
from attributary_train.teacher.ekfac import Factors, FactorSettings, Gradients, as_matrix
from attributary_train.teacher.factors import kept_factors
from attributary_train.teacher.fisher_diagonal import Diagonal, fit_diagonal
from attributary_train.teacher.moved import losses, moved
from attributary_train.teacher.parameters import ParameterSet, module_names

# The sample of items, and every how many of its timesteps, that the size of a step is found on.
PROBE_ITEMS = 96
PROBE_STRIDE = 2
TOLERANCE = 0.15
# Step sizes are whole powers of this.
STEP_GRID = 1.02
MAX_TRIES = 12


def _snapped(size: float) -> float:
    # Measured losses differ in their last bits between batch sizes; a step that followed them would carry that on.
    return float(STEP_GRID ** round(np.log(size) / np.log(STEP_GRID)))


@dataclass(frozen=True)
class AbuSettings:
    """Settings of one unlearning step.

    `fisher`: "ekfac" (AbU+), "diagonal" (AbU) or "none" (plain ascent). `damping`: times the layer's mean eigenvalue
    (0.1 in the AbU+ paper; the diagonal Fisher of AbU has none, a small one keeps dead weights still).
    `target_change`: the mean relative loss change over the training set that the step aims at, e.g. 0.01 for 1%; its
    size is then found per query on a fixed sample of items, and the change reached is logged. `alpha` instead is a
    fixed step, alpha F^-1 g with F the mean over items, as it is fitted here. `papers_alpha` is that step as the papers
    write it, (papers_alpha / N) F^-1 g with the same F and N items, so that alpha = papers_alpha / N. Their values:
    AbU+ 0.01 / N on COCO (so alpha = 0.01 / N^2) and 0.002 on Stable Diffusion, AbU 0.01 and 0.1 (in 100 steps).
    `step`: "measured" finds the size as above; "fisher" takes the one whose d^T F d says `target_change`, in closed
    form: every query moves the model's answers alike, whatever the sample of items says.
    `part`: the change of the losses that is scored, "whole", or its "even" or "odd" half in the step's sign (twice the
    cost): signed influence is odd, sensitivity is even. `skew`: (after - before) / (after + before) of each draw, so
    that loud timesteps do not drown the others; `shared_noise`: one noise a timestep for all items (both as in MUCS).
    `gradient_draws`: (noise, timestep) draws of the query's gradient (50,000 in the papers; see docs/teacher.md for
    what fewer cost). `timesteps`: at which a training item's loss is taken (20 and 10 in the papers); `mirrored`:
    each with a noise and its mirror image, so twice as many passes; `span`: evenly over that part of the schedule, from
    its quiet end (where noise is loud, items' losses hardly move). `draw`: which noise; another number is an
    independent teacher.
    """

    fisher: Literal["ekfac", "diagonal", "none"] = "ekfac"
    parameters: ParameterSet = "cross_kv"
    damping: float = 0.1
    target_change: float | None = 0.01
    alpha: float | None = None
    papers_alpha: float | None = None
    gradient_draws: int = 512
    timesteps: int = 5
    span: float = 1.0
    mirrored: bool = True
    draw: int = 0
    step: Literal["measured", "fisher"] = "measured"
    part: Literal["whole", "even", "odd"] = "whole"
    skew: bool = False
    shared_noise: bool = False
    factors: FactorSettings = field(default_factory=FactorSettings)

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.target_change, self.alpha, self.papers_alpha)) != 1:
            raise TeacherError(
                "target_change, alpha, papers_alpha",
                "give exactly one of them: a loss change to aim at or a fixed step",
            )
        TeacherError.if_below(1, gradient_draws=self.gradient_draws, timesteps=self.timesteps)
        for name, known in (("step", ("measured", "fisher")), ("part", ("whole", "even", "odd"))):
            if getattr(self, name) not in known:
                raise TeacherError(name, f"{getattr(self, name)!r}; there are {', '.join(known)}")
        if self.step == "fisher" and (self.fisher == "none" or self.target_change is None):
            raise TeacherError("step", "fisher needs a Fisher information and a target_change")
        if self.damping < 0:
            raise TeacherError("damping", f"{self.damping}; must not be negative")
        if not 0 < self.span <= 1:
            raise TeacherError("span", f"{self.span}; must be above 0 and at most 1")
        if self.target_change is not None and not 0 < self.target_change < 10:
            raise TeacherError("target_change", f"{self.target_change}; must be above 0 and below 10")

    @property
    def columns(self) -> int:
        """Losses taken of each item: U-Net passes."""
        return self.timesteps * (2 if self.mirrored else 1)


@dataclass(frozen=True)
class Step:
    """One query's step: its size, and the mean relative loss change of the items that were scored."""

    size: float
    change: float


class Abu:
    """Finite-step attribution by unlearning, on the whole corpus or on candidates.

    The loss of every item before the step is computed once and kept; it and the loss after the step meet the same
    noise, which belongs to (item, caption, timestep). Losses are float32: in bf16 the small differences drown.
    EK-FAC factors are kept in the folder `scratch`, if there is one.
    """

    def __init__(
        self,
        settings: AbuSettings | None = None,
        *,
        scratch: Path | None = None,
        factors: Factors | Diagonal | None = None,
        device: str = "cpu",
    ) -> None:
        self.device = device
        self.settings = settings or AbuSettings()
        self.name = {"ekfac": "abu+", "diagonal": "abu", "none": "abu-sgd"}[self.settings.fisher]
        self.scratch = scratch
        self.steps: list[Step] = []  # of the last `score` call, in the queries' order
        self._factors: Factors | Diagonal | None = factors
        self._fitted = False
        self._fit_seconds = 0.0
        self._cost: Cost | None = None

    def fit(self, data: SubjectData, model: SubjectModel, *, baseline: Path | None = None) -> None:
        """Fit the Fisher information if none was given or kept, and take the baseline losses.

        `baseline`: a file that keeps these losses, float32 [N, T], between processes; one of another model, other
        data or other noise is taken anew.
        """
        began = time.perf_counter()
        self._fitted = False
        self.model = model
        # Before the factors are fitted: they are summed where the denoiser is.
        model.unet.to(self.device)
        self.data = data.to(self.device)
        self.modules = module_names(model.unet, self.settings.parameters)
        if self.settings.fisher == "ekfac" and self._factors is None:
            self._factors = kept_factors(model, data, self.settings.factors, self.scratch)
        elif self.settings.fisher == "diagonal" and self._factors is None:
            self._factors = fit_diagonal(model, data, self.settings.factors)
        if self._factors is not None and self._factors.weights != model.weights:
            raise TeacherError(
                "factors",
                f"are the Fisher of model {self._factors.weights[:12]}, not of {model.weights[:12]}",
            )
        if isinstance(self._factors, Factors) and set(self._factors.layers) < set(self.modules):
            raise TeacherError(
                "factors",
                f"cover {len(self._factors.layers)} modules; {self.settings.parameters} has {len(self.modules)}",
            )
        if self._factors is not None:
            self._factors = self._factors.to(self.device)
        self.grid = LossGrid.of(
            model,
            data,
            self.settings.timesteps,
            self.settings.draw,
            mirrored=self.settings.mirrored,
            shared=self.settings.shared_noise,
            span=self.settings.span,
        ).to(self.device)
        self.baseline = self._baseline(baseline)
        require_finite(self.baseline, "baseline loss")
        rows = np.sort(np.random.default_rng(0).permutation(len(data))[:PROBE_ITEMS])
        first = PROBE_STRIDE // 2 if self.settings.timesteps > 1 else 0
        every = [
            at for at in range(self.settings.columns) if at % self.settings.timesteps % PROBE_STRIDE == first
        ]
        self._probe = rows, LossGrid(self.grid.noise[:, every], self.grid.timesteps[every])
        self._probe_before = self.baseline[torch.from_numpy(rows)][:, every]
        self._fit_seconds = time.perf_counter() - began
        self._fitted = True

    @property
    def factors(self) -> Factors | Diagonal | None:
        """The Fisher information that was fitted or given."""
        return self._factors

    def _baseline(self, path: Path | None) -> Tensor:
        def take() -> Tensor:
            return losses(self.model, self.data, self.grid, np.arange(len(self.data)))

        if path is None:
            return take()
        settings = self.settings
        grid = [settings.timesteps, settings.mirrored, settings.draw]
        # What came after the first baselines is told where it is not as it was for them, so that theirs are found.
        later = [True] * settings.shared_noise + [int(1e6 * settings.span)] * (settings.span != 1.0)
        about = baseline_digest(self.model, self.data, [*grid, *later])
        return kept_baseline(path, about, take)

    def gradient(self, query: Queries) -> Gradients:
        """Mean gradient of one query's loss (`query` has one row) over `gradient_draws` draws, module -> [O, I]."""
        unet = self.model.unet
        modules = dict(unet.named_modules())
        weights: list[Tensor] = []
        slots: list[tuple[str, bool]] = []
        for name in self.modules:
            for key, value in modules[name].named_parameters():
                value.requires_grad_(True)
                weights.append(value)
                slots.append((name, key == "bias"))
        total = [torch.zeros_like(w) for w in weights]
        seen = 0
        latents, text = query.latents.to(self.device), query.text.to(self.device)
        try:
            for noise, steps in query_draws(
                query.names[0],
                query.prompts[0],
                query.latents.shape[1:],
                self.model.timesteps,
                self.settings.gradient_draws,
                self.settings.draw,
            ):
                size = len(steps)
                loss = self.model.losses(
                    latents.expand(size, -1, -1, -1),
                    noise.to(self.device),
                    steps.to(self.device),
                    text.expand(size, -1, -1),
                ).sum()
                for part, grad in zip(total, torch.autograd.grad(loss, weights), strict=True):
                    part += grad
                seen += size
        finally:
            unet.requires_grad_(False)
        found: dict[str, dict[bool, Tensor]] = {}
        for (name, is_bias), part in zip(slots, total, strict=True):
            found.setdefault(name, {})[is_bias] = part / seen
        gradients = {
            name: as_matrix(modules[name], parts[False], parts.get(True)) for name, parts in found.items()
        }
        for name, value in gradients.items():
            require_finite(value, f"gradient of query {query.names[0]} in {name}")
        return gradients

    def change(self, query: Queries) -> tuple[Gradients, float]:
        """The step for one query: what is added to each module's weights, and its size a."""
        settings = self.settings
        gradients = self.gradient(query)
        direction = (
            gradients if self._factors is None else self._factors.precondition(gradients, settings.damping)
        )
        if settings.alpha is not None:
            size = settings.alpha
        elif settings.papers_alpha is not None:
            size = settings.papers_alpha / len(self.data)
        else:
            assert settings.target_change is not None
            size = self._size(direction, settings.target_change)
        return {name: size * value for name, value in direction.items()}, size

    def _size(self, direction: Gradients, target: float) -> float:
        """The step that changes the mean loss of a fixed sample of items by `target`, relative to its loss before.

        Starts where a quadratic model of the loss says (its curvature is the Fisher's, times half the answer's size
        for a mean squared error) and corrects from what is measured: a few hundred passes a try, little beside the
        scores. Depends on the query alone, so neither order nor company of queries changes a score.
        """
        rows, grid = self._probe
        before = float(self._probe_before.mean())
        if isinstance(self._factors, Factors | Diagonal):
            shape = self.data.latents.shape[1:]
            curvature = self._factors.quadratic(direction) * float(np.prod(shape)) / 4.0
        else:
            curvature = sum(float(value.double().square().sum()) for value in direction.values())
        if not curvature > 0.0:
            raise TeacherError(
                "gradient", "is zero: the query's loss does not depend on the weights that are moved"
            )
        size, low, high = _snapped((target * before / curvature) ** 0.5), 0.0, float("inf")
        if self.settings.step == "fisher":
            return size
        for _ in range(MAX_TRIES):
            with moved(self.model.unet, {name: size * value for name, value in direction.items()}):
                after = losses(self.model, self.data, grid, rows)
            reached = float(after.mean()) / before - 1.0
            if abs(reached / target - 1.0) < TOLERANCE:
                return size
            if reached < target:
                low = size
            else:
                high = size
            # Beyond the linear range the change grows with the square of the step.
            guess = size * min(4.0, max(0.25, (target / reached) ** 0.5)) if reached > 0 else 4.0 * size
            size = _snapped(guess if low < guess < high else 0.5 * (low + high))
        raise TeacherError(
            "target_change",
            f"{target:g} is not reached: a step of {size:.3g} changes the loss by {reached:.3g}. The loss does "
            "not follow its gradient, as in a model that is hardly trained: train it longer, aim at another "
            "--target-change, or label with --fisher diagonal",
        )

    def score(self, queries: Queries, candidates: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Loss change of each candidate, float32 [Q, C]; see `Attributor.score`. `steps` says what each query's step
        did.
        """
        if not self._fitted:
            raise TeacherError(self.name, "score was called before fit")
        if queries.weights != self.model.weights:
            raise TeacherError(
                "queries", f"made by model {queries.weights[:12]}, not by {self.model.weights[:12]}"
            )
        candidates = np.asarray(candidates, np.int64)
        if candidates.ndim not in (1, 2):
            raise TeacherError("candidates", f"{candidates.ndim} dimensions; must be [C] or [Q, C]")
        if candidates.ndim == 2 and len(candidates) != len(queries):
            raise TeacherError("candidates", f"{len(candidates)} rows for {len(queries)} queries")
        per_query = np.broadcast_to(candidates, (len(queries), candidates.shape[-1]))
        began = time.perf_counter()
        out = np.empty(per_query.shape, np.float32)
        self.steps = []
        for at in range(len(queries)):
            rows = self.data.rows(per_query[at])
            change, size = self.change(queries.take([at]))
            before = self.baseline[torch.from_numpy(rows)]
            after = self._after(change, rows, queries.names[at])
            rise = self._rise(after, before)
            if self.settings.part != "whole":
                turned = {name: -value for name, value in change.items()}
                back = self._rise(self._after(turned, rows, queries.names[at]), before)
                rise = (rise + back) / 2 if self.settings.part == "even" else (rise - back) / 2
            out[at] = rise.numpy()
            self.steps.append(Step(size, float(after.mean() / before.mean()) - 1.0))
        # Passes that find the step's size are left out: a few hundred, and as many as the query needs.
        sides = 1 if self.settings.part == "whole" else 2
        passes = sides * per_query.shape[1] * self.settings.columns + self.settings.gradient_draws
        state = self.baseline.numel() * 4 / len(self.data)
        self._cost = Cost(
            self._fit_seconds,
            (time.perf_counter() - began) / max(1, len(queries)),
            per_query.shape[1],
            state,
            passes,
            torch.get_num_threads(),
        )
        return out

    def _after(self, change: Gradients, rows: npt.NDArray[np.int64], name: str) -> Tensor:
        with moved(self.model.unet, change):
            after = losses(self.model, self.data, self.grid, rows)
        return require_finite(after, f"loss after unlearning {name}")

    def _rise(self, after: Tensor, before: Tensor) -> Tensor:
        """Change of the items' losses [C, T], float32 [C]."""
        gap = after - before
        return (gap / (after + before) if self.settings.skew else gap).mean(dim=1)

    @property
    def cost(self) -> Cost:
        """Cost of the fit and of the last `score` call. Stored per item: its baseline losses."""
        if self._cost is None:
            raise TeacherError("cost", "nothing was scored yet")
        return self._cost
