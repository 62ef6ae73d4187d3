"""D-TRAK: TRAK with the squared norm of the model's answer in place of its loss.

Zheng et al., "Intriguing Properties of Data Attribution on Diffusion Models", ICLR 2024:
f = ||eps_theta(x_t, t, c)||^2. There is no derivation; it agreed better with retraining than the loss did.
"""

from __future__ import annotations

import dataclasses

from attributary_train.teacher.gradients import GradientSettings
from attributary_train.teacher.projection import Flat
from attributary_train.teacher.registry import Context
from attributary_train.teacher.trak import Trak

_DTRAK = GradientSettings(parameters="all", output="square")


class DTrak(Trak):
    """TRAK's kernel on gradients of ||eps_theta||^2; lambda by the same rule as TRAK's."""

    name = "dtrak"


def dtrak(
    context: Context,
    dim: int = 4096,
    kind: str = "sparse",
    seed: int = 0,
    damping: float = 0.1,
    **gradients: object,
) -> DTrak:
    """Make D-TRAK; further settings are those of `GradientSettings`."""
    settings = dataclasses.replace(_DTRAK, **gradients)  # type: ignore[arg-type]
    return DTrak(settings, Flat(dim, kind, seed), damping)  # type: ignore[arg-type]
