"""JourneyTRAK: TRAK that asks about a point of the sampling path, not about the finished image.

Georgiev et al., "The Journey, Not the Destination: How Data Guides Diffusion Models", 2023.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor

from attributary_train.errors import TeacherError
from attributary_train.subject.model import SubjectModel
from attributary_train.subject.noise import noise_for, noise_key
from attributary_train.subject.queries import Queries
from attributary_train.subject.sample import BATCH
from attributary_train.teacher.gradients import Draws, GradientPass, GradientSettings
from attributary_train.teacher.projection import Flat, Projection
from attributary_train.teacher.registry import Context
from attributary_train.teacher.trak import Trak

_JOURNEY = GradientSettings(parameters="all")


@torch.inference_mode()
def journey(
    model: SubjectModel, queries: Queries, empty: Tensor, timestep: int
) -> tuple[Tensor, Tensor, int]:
    """Follow each query's sampling again. Returns the clean image that the sampler expects at the step nearest to
    `timestep`, the latents it ends with (those of the queries), both float32 [Q, C, h, w], and that step.

    Passes are filled up to `sample.BATCH` rows as in sampling, so that the path is the same to the bit.
    """
    if model.folder is not None:
        raise TeacherError(
            "journey_trak", f"follows this house's sampler; one of family {model.family.name} has its own"
        )
    config = model.unet.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    scheduler = copy.deepcopy(model.scheduler)
    scheduler.set_timesteps(queries.steps)
    chosen = min((int(step) for step in scheduler.timesteps), key=lambda step: abs(step - timestep))
    expected, ends = [], []
    for at in range(0, len(queries), BATCH):
        text = queries.text[at : at + BATCH]
        rows = len(text)
        seeds = queries.seeds[at : at + BATCH]
        x = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        )
        text = torch.cat([text, text[:1].expand(BATCH - rows, -1, -1)])
        x = torch.cat([x, x[:1].expand(BATCH - rows, -1, -1, -1)]) * scheduler.init_noise_sigma
        both = torch.cat([empty.expand_as(text), text])
        scheduler.set_timesteps(queries.steps)
        for step in scheduler.timesteps:
            free, bound = model.answers(torch.cat([x, x]), step, both).chunk(2)
            answer = scheduler.step(free + queries.guidance * (bound - free), step, x)
            x = answer.prev_sample
            if int(step) == chosen:
                expected.append(answer.pred_original_sample[:rows])
        ends.append(x[:rows])
    return torch.cat(expected).clone(), torch.cat(ends).clone(), chosen


class JourneyTrak(Trak):
    """phi(q) is the gradient of the loss at one timestep on the clean image that the sampler expected there.

    Training items have TRAK's features. `timestep` is 400 of 1,000 in the AbU paper.
    """

    name = "journey_trak"

    def __init__(
        self,
        settings: GradientSettings = _JOURNEY,
        projection: Projection | None = None,
        damping: float = 0.1,
        timestep: int = 400,
    ) -> None:
        if settings.output != "loss":
            raise TeacherError("output", f"{settings.output!r}; JourneyTRAK is defined on the loss")
        super().__init__(settings, projection, damping)
        self.timestep = timestep

    def _query_features(self, passing: GradientPass, queries: Queries) -> Tensor:
        assert self._fitted is not None
        data, model = self._fitted
        if not 0 <= self.timestep < model.timesteps:
            raise TeacherError("timestep", f"{self.timestep}; must be in 0 to {model.timesteps - 1}")
        expected, _, step = journey(model, queries, data.empty, self.timestep)
        passing.passes += 2 * queries.steps * len(queries)

        def draws(row: int) -> Draws:
            key = noise_key(0, f"{queries.names[row]}\t{queries.prompts[row]}")
            size = self.settings.batch
            for at in range(0, self.settings.query_draws, size):
                count = min(size, self.settings.query_draws - at)
                noise = torch.stack(
                    [
                        torch.from_numpy(
                            noise_for(
                                key, step, expected.shape[1:], self.settings.draw * 1_000_003 + at + draw
                            )
                        )
                        for draw in range(count)
                    ]
                )
                latents = expected[row].expand(count, -1, -1, -1)
                yield latents, noise, torch.full((count,), step)

        return passing.of_queries(queries, draws)


def journey_trak(
    context: Context,
    dim: int = 4096,
    kind: str = "sparse",
    seed: int = 0,
    damping: float = 0.1,
    timestep: int = 400,
    **gradients: object,
) -> JourneyTrak:
    """Make JourneyTRAK; further settings are those of `GradientSettings`."""
    settings = dataclasses.replace(_JOURNEY, **gradients)  # type: ignore[arg-type]
    return JourneyTrak(settings, Flat(dim, kind, seed), damping, timestep)  # type: ignore[arg-type]
