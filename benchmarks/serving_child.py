"""The processes that `serving.py` starts: `core BUNDLE INPUTS THREADS` and `load ADDRESS INPUTS`.

Each reads one JSON line a cell from standard input and answers with one.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

PHASES = ("queue", "decode", "preprocess", "tokenize", "encode", "search", "rescore", "assemble")
# Every so many replies one is kept for its timings.
SAMPLE = 4


def tell(
    latencies: Sequence[float], elapsed: float, timings: Sequence[Any], own: Sequence[float]
) -> dict[str, float]:
    """Return the figures of one cell; latencies in seconds, `own` those that belong to `timings`."""
    work = np.array([sum(getattr(timing, phase) for phase in PHASES[1:]) for timing in timings])
    ordered = np.sort(np.asarray(latencies)) * 1e3
    return {
        "queries": len(ordered),
        "queries_per_s": len(ordered) / elapsed,
        "p50_ms": float(np.percentile(ordered, 50)),
        "p99_ms": float(np.percentile(ordered, 99)),
        # Each query against its own phases, without queueing: what a busy machine slows is in both.
        "over_phases": float(np.median(np.asarray(own) * 1e3 / work)),
        "batch": float(np.mean([timing.batch_size for timing in timings])),
        **{phase: float(np.median([getattr(timing, phase) for timing in timings])) for phase in PHASES},
    }


class Core:
    """Threads that call the engine directly."""

    def __init__(self, bundle: str, inputs: str, threads: str) -> None:
        from attributary.attribution.open import open_engine

        self._engine = open_engine(Path(bundle), encoder_threads=int(threads))
        self._inputs = inputs
        self._queries: dict[str, list[Any]] = {}

    def prepare(self, images: str, count: int, side: int) -> dict[str, Any]:
        """Write the inputs of both processes, and return facts about the bundle."""
        from attributary.attribution.types import Query

        data = encoded(Path(images), count, side)
        prepared = [self._engine.prepare(Query(image=picture)) for picture in data]
        pixels = np.stack([entry.pixels for entry in prepared if entry.pixels is not None])
        embeddings = self._engine.embed(prepared)
        np.savez(self._inputs, pixels=pixels, embeddings=embeddings, images=np.array(data, object))
        self._queries = {
            "image": [Query(image=picture) for picture in data],
            "pixels": [Query(pixels=picture) for picture in pixels],
            "embedding": [Query(embedding=vector) for vector in embeddings],
        }
        manifest = self._engine.bundle.manifest
        return {
            "bundle_id": manifest.bundle_id,
            "encoder": manifest.encoder.name,
            "dim": manifest.encoder.dim,
            "items": manifest.item_count,
            "index": manifest.index.factory,
            "candidates": manifest.index.candidates,
            "recall_at_10": manifest.index.recall_at_10,
            "mean_image_bytes": round(float(np.mean([len(picture) for picture in data]))),
        }

    def run(self, kind: str, concurrency: int, seconds: float) -> dict[str, float]:
        """Measure one cell."""
        queries, attribute = self._queries[kind], self._engine.attribute
        latencies: list[float] = []
        timings: list[Any] = []
        begin = threading.Barrier(concurrency + 1)

        def caller(number: int) -> None:
            begin.wait()
            while (started := perf_counter()) < until[0]:
                answer = attribute(queries[number % len(queries)])
                latencies.append(perf_counter() - started)
                timings.append(answer.timings)
                number += concurrency

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(concurrency)]
        until = [0.0]
        for thread in threads:
            thread.start()
        started = perf_counter()
        until[0] = started + seconds
        begin.wait()
        for thread in threads:
            thread.join()
        return tell(latencies, perf_counter() - started, timings, latencies)


class Load:
    """Callers on one event loop and one channel."""

    def __init__(self, address: str, inputs: str) -> None:
        self._address = address
        self._inputs = inputs
        self._requests: dict[str, list[bytes]] = {}

    def read(self) -> None:
        """Serialise the requests; the replies carry timings."""
        from attributary.client import query
        from attributary.client.messages import attribute_request

        with np.load(self._inputs, allow_pickle=True) as archive:
            queries = {
                "image": [query(bytes(picture)) for picture in archive["images"]],
                "pixels": [query(picture) for picture in archive["pixels"]],
                "embedding": [query(embedding=vector) for vector in archive["embeddings"]],
            }
        self._requests = {
            kind: [attribute_request(entry, {"timings": True}).SerializeToString() for entry in entries]
            for kind, entries in queries.items()
        }

    def run(self, kind: str, concurrency: int, seconds: float) -> dict[str, float]:
        """Measure one cell."""
        import uvloop

        if not self._requests:
            self.read()
        return dict(uvloop.run(self._run(self._requests[kind], concurrency, seconds)))

    async def _run(self, requests: list[bytes], concurrency: int, seconds: float) -> dict[str, float]:
        import grpc

        from attributary.client.messages import from_attribution
        from attributary.v1 import attribution_pb2 as pb

        kept: list[bytes] = []
        own: list[float] = []
        latencies: list[float] = []
        async with grpc.aio.insecure_channel(self._address) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/attributary.v1.AttributionService/Attribute"
            )
            await call(requests[0])
            until = perf_counter() + seconds

            async def caller(number: int) -> None:
                while (started := perf_counter()) < until:
                    reply = await call(requests[number % len(requests)])
                    latencies.append(perf_counter() - started)
                    if len(latencies) % SAMPLE == 1:
                        kept.append(reply)
                        own.append(latencies[-1])
                    number += concurrency

            started = perf_counter()
            await asyncio.gather(*(caller(number) for number in range(concurrency)))
            elapsed = perf_counter() - started
        replies = [from_attribution(pb.AttributeResponse.FromString(reply).attribution) for reply in kept]
        return tell(latencies, elapsed, [reply.timings for reply in replies], own)


def encoded(folder: Path, count: int, side: int) -> list[bytes]:
    """Return pictures below a folder as JPEGs of side x side, quality 90, as a generator's service sends them."""
    from PIL import Image

    paths = sorted(path for kind in ("png", "jpg", "jpeg", "webp") for path in folder.rglob(f"*.{kind}"))
    if not paths:
        raise SystemExit(f"no pictures below {folder}")
    data = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        with Image.open(path) as picture:
            out = io.BytesIO()
            picture.convert("RGB").resize((side, side)).save(out, "JPEG", quality=90)
            data.append(out.getvalue())
    return data


def main() -> None:
    """Answer cells until standard input ends."""
    role, *given = sys.argv[1:]
    child = Core(*given) if role == "core" else Load(*given)
    for line in sys.stdin:
        cell = json.loads(line)
        if "prepare" in cell:
            assert isinstance(child, Core)
            reply: dict[str, Any] = child.prepare(cell["prepare"], cell["count"], cell["side"])
        else:
            reply = child.run(**cell)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
