"""Embedding queries through `AttributeBatch`: what one message a query costs, and what many a message save.

python benchmarks/serving_batch.py --bundle out/demo/bundle [--json] [--save]

A server in its own process; this process asks. Sizes take turns, so that a noisy neighbour touches all alike.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median

import numpy as np
from common import aim, arguments, emit

from attributary.bundle.bundle import Bundle
from attributary.cli.process import ServerProcess
from attributary.client import AsyncClient, query

SIZES = (1, 8, 32)
IN_FLIGHT = 4


async def rate(client: AsyncClient, vectors: np.ndarray, size: int, seconds: float) -> tuple[float, float]:
    """Return (queries per second, median milliseconds of a message) with IN_FLIGHT messages at a time."""
    rng = np.random.default_rng(size)
    until = time.perf_counter() + seconds
    spent: list[float] = []

    async def ask() -> None:
        while (started := time.perf_counter()) < until:
            chosen = vectors[rng.choice(len(vectors), size)]
            results = await client.attribute_batch([query(embedding=vector) for vector in chosen])
            assert all(hasattr(result, "items") for result in results)
            spent.append(time.perf_counter() - started)

    begun = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
    return len(spent) * size / (time.perf_counter() - begun), median(spent) * 1e3


async def measure(address: str, vectors: np.ndarray, rounds: int, seconds: float) -> list[dict[str, float]]:
    """Every size in turn, `rounds` times; medians."""
    found: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    async with AsyncClient(address) as client:
        await rate(client, vectors, 8, 1.0)
        for _ in range(rounds):
            for size in SIZES:
                found[size].append(await rate(client, vectors, size, seconds))
    return [
        {
            "queries_a_message": size,
            "queries_per_s": median(pair[0] for pair in pairs),
            "message_p50_ms": median(pair[1] for pair in pairs),
        }
        for size, pairs in found.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, default=Path("out/demo/bundle"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    vectors = np.asarray(Bundle.open(given.bundle, verify=False).vectors[:4096], np.float32)
    with ServerProcess(given.bundle, "--log-level", "warning") as server:
        rows = asyncio.run(measure(server.address, vectors, given.rounds, given.seconds))
    best = max(row["queries_per_s"] for row in rows)
    emit(
        "serving_batch",
        {"messages_in_flight": IN_FLIGHT, "rounds": given.rounds, "seconds": given.seconds},
        rows,
        [
            aim(
                "embedding queries through AttributeBatch",
                best,
                2000,
                "1/s",
                best >= 2000,
                "typed Python client",
            )
        ],
        given.json,
    )


if __name__ == "__main__":
    main()
