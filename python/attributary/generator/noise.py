"""The noise that torch draws for a seed, without torch: so that a seed means one picture in both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16


def starting_noise(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """`torch.randn(shape, generator=torch.Generator().manual_seed(seed))` on a CPU, to about 1e-6; float32.

    torch takes 24 bits of each number of a Mersenne twister and turns blocks of 16 into normal ones (Box and Muller,
    1958). Raises ValueError unless the values fill whole blocks; others it draws in another way.
    """
    count = int(np.prod(shape))
    if count % _BLOCK or count == 0:
        raise ValueError(f"{count} values are no whole number of blocks of {_BLOCK}")
    # Seeded as the twister's authors do; numpy's newer generators seed it in another way.
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    bits = twister.randint(0, 1 << 32, count, np.uint32)
    uniform = ((bits & 0xFFFFFF) * np.float64(2.0**-24)).reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(-2 * np.log1p(-uniform[:, 0]))
    angle = 2 * np.pi * uniform[:, 1]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normal.astype(np.float32).reshape(shape)
