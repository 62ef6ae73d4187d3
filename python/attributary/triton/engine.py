"""An engine whose encoder and index are Triton's: queries are prepared, and shares computed, on this side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.golden import MIN_COSINE, difference, golden_queries
from attributary.attribution.prepare import Preparer, ms_since
from attributary.attribution.score import Scores
from attributary.attribution.snapshot import Candidates, Snapshot
from attributary.attribution.types import Attribution, Filter, Limits, Prepared
from attributary.bundle.bundle import Bundle
from attributary.bundle.golden import GOLDEN
from attributary.delta.journal.place import changes_of, steadily
from attributary.encoder.base import EncoderSpec
from attributary.errors import BundleError, PreconditionError, UnavailableError

from .client import ModelTimes, TritonClient
from .templates import ALIASES, model_name

_OUTPUTS: Final = ("row", "similarity", "bundle", "timing")
# A filter is one bitmap a query on the wire; more than this is sent in several requests.
_FILTER_BYTES: Final = 1 << 25
_VERIFY_BATCH = 8
_VERIFY_S = 30.0


class TritonEngine(Preparer):
    """Answers queries of one bundle through the models that carry its id, never another bundle's."""

    def __init__(self, bundle: Bundle, client: TritonClient, limits: Limits | None = None) -> None:
        super().__init__(bundle, EncoderSpec.of(bundle.manifest.encoder), limits)
        self.bundle_id = bundle.manifest.bundle_id
        self._client = client
        self._built = self.snapshot  # without changes since the build, as the golden queries were answered
        self._models = {part: model_name(part, self.bundle_id) for part in ALIASES}
        self._number = int(self.bundle_id, 16)
        self._pad_to = 1
        # The fraction of a picture's time in Triton that is spent in its queues; `times` keeps it.
        self._waiting = 0.0
        self._counted: dict[str, ModelTimes] = {}

    async def infer(self, batch: Sequence[Prepared], timeout_s: float) -> list[Attribution]:
        """Answer prepared queries, all pictures or all embeddings; one Attribution for each, in their order.

        Triton finds the candidates; shares are computed here, over what was deleted, added and filtered. Raises the
        errors of `TritonClient`.
        """
        # The snapshot is read once: additions and deletions during the request are for the next query.
        return await self._infer(self.snapshot, batch, timeout_s)

    async def _infer(
        self, snapshot: Snapshot, batch: Sequence[Prepared], timeout_s: float
    ) -> list[Attribution]:
        started = perf_counter()
        pictures = batch[0].embedding is None
        tensors = self._pictures(batch) if pictures else {"embedding": _embeddings(batch)}
        outputs = ("embedding", *_OUTPUTS) if pictures else _OUTPUTS
        reply = await self._request("attribution" if pictures else "index", tensors, outputs, timeout_s)
        embeddings = reply["embedding"] if pictures else tensors["embedding"]
        spent, started = ms_since(started), perf_counter()
        found = snapshot.with_added(embeddings, Candidates(reply["row"], reply["similarity"]))
        scores = Scores(snapshot, batch, found)
        for filter_, places in scores.short.items():
            scores.fill(places, await self._among(snapshot, embeddings[places], filter_, timeout_s))
        scored, started = ms_since(started), perf_counter()
        answers = scores.answers()
        search, rescore, rows = reply["timing"][0].tolist()
        rest = max(0.0, spent - search - rescore)
        self._set_timings(batch, rest, search, rescore + scored, int(rows), pictures, ms_since(started))
        return answers

    async def embed_batch(self, batch: Sequence[Prepared], timeout_s: float) -> NDArray[np.float32]:
        """Return the unit vectors of prepared pictures, float32 [B, D]; raises the errors of `TritonClient`."""
        model = self._models["encoder"]
        reply = await self._client.infer(model, self._pictures(batch), ("embedding",), timeout_s)
        return np.asarray(reply["embedding"], np.float32)

    async def is_ready(self, timeout_s: float) -> bool:
        """Say whether Triton has this bundle's models; raises UnavailableError while it is away."""
        return await self._client.is_ready(self._models["attribution"], timeout_s)

    async def verify(self) -> float:
        """Send the golden queries to Triton; return the smallest cosine between embeddings and the expected ones.

        Raises BundleError naming the part that disagrees, UnavailableError.
        """
        await self._client.share()
        golden = self.bundle.golden
        config = await self._client.config(self._models["encoder"], _VERIFY_S)
        # Only the Python model pads by itself; other backends batch requests of one length only.
        self._pad_to = 1 if config.get("backend") == "python" else 8
        found = []
        for start in range(0, len(golden.pixels), _VERIFY_BATCH):
            part = slice(start, start + _VERIFY_BATCH)
            tensors: dict[str, NDArray[Any]] = {
                "pixels": golden.pixels[part],
                "token_ids": golden.token_ids[part],
                "token_mask": golden.token_mask[part],
            }
            reply = await self._client.infer(self._models["encoder"], tensors, ("embedding",), _VERIFY_S)
            found.append(reply["embedding"])
        cosine = float((np.concatenate(found) * golden.embeddings).sum(axis=1).min())
        # Triton may run a quantised encoder or a half-precision engine.
        if not cosine >= MIN_COSINE["int8"]:
            raise BundleError("encoder (Triton)", f"disagrees with {GOLDEN}: cosine {cosine:.5f}")
        queries = golden_queries(golden, golden.ids.shape[1])
        for query, embedding in zip(queries, golden.embeddings, strict=True):
            query.embedding = embedding
        for start in range(0, len(queries), _VERIFY_BATCH):
            answers = await self._infer(self._built, queries[start : start + _VERIFY_BATCH], _VERIFY_S)
            for number, answer in enumerate(answers, start):
                if problem := difference(golden, number, answer):
                    raise BundleError("index (Triton)", f"disagrees with {GOLDEN}: query {number}: {problem}")
        return cosine

    async def times(self, timeout_s: float) -> dict[str, dict[str, float]]:
        """Return mean milliseconds by part, "queue" and "compute", from Triton's statistics since the last call."""
        means = {}
        for part in ("encoder", "index"):
            now = await self._client.times(self._models[part], timeout_s)
            before = self._counted.get(part, ModelTimes(0, 0.0, 0.0))
            self._counted[part] = now
            requests = now.requests - before.requests
            if requests <= 0:
                continue
            queue = (now.queue_ms - before.queue_ms) / requests
            means[part] = {"queue": queue, "compute": (now.compute_ms - before.compute_ms) / requests}
        queued = sum(phases["queue"] for phases in means.values())
        if "encoder" in means:
            self._waiting = queued / max(1e-9, queued + means["encoder"]["compute"])
        return means

    async def _request(
        self, part: str, tensors: dict[str, NDArray[Any]], outputs: tuple[str, ...], timeout_s: float
    ) -> dict[str, NDArray[Any]]:
        reply = await self._client.infer(self._models[part], tensors, outputs, timeout_s)
        if int(reply["bundle"][0, 0]) != self._number:
            raise UnavailableError(f"Triton answered for bundle {int(reply['bundle'][0, 0]):016x}")
        return reply

    async def _among(
        self, snapshot: Snapshot, embeddings: NDArray[np.float32], filter_: Filter, timeout_s: float
    ) -> Candidates:
        """The best items that pass: here where they can be listed, by Triton's index where they are many."""
        allowed = snapshot.filters.compile(filter_)
        if allowed.listed:
            return snapshot.listed(embeddings, allowed)
        bitmap = allowed.first(len(snapshot.bundle.vectors))
        at_once = max(1, _FILTER_BYTES // bitmap.size)
        replies = []
        for start in range(0, len(embeddings), at_once):
            queries = np.ascontiguousarray(embeddings[start : start + at_once])
            tensors: dict[str, NDArray[Any]] = {
                "embedding": queries,
                "filter": np.ascontiguousarray(np.broadcast_to(bitmap, (len(queries), bitmap.size))),
            }
            replies.append(await self._request("index", tensors, _OUTPUTS, timeout_s))
        found = Candidates(
            *(np.concatenate([reply[name] for reply in replies]) for name in ("row", "similarity"))
        )
        return snapshot.with_added(embeddings, found, allowed)

    def _set_timings(
        self,
        members: Sequence[Prepared],
        rest: float,
        search: float,
        rescore: float,
        rows: int,
        pictures: bool,
        assembled: float,
    ) -> None:
        """Divide a request's time among the phases.

        Search and re-scoring are measured beside the index. The `rest` is divided into waiting and encoding as
        Triton's statistics do on average; all of it is waiting where nothing was encoded.
        """
        waited = rest * self._waiting
        for prepared in members:
            timings = prepared.timings
            timings.search, timings.rescore, timings.assemble = search, rescore, assembled
            timings.batch_size = rows
            if pictures:
                timings.queue += waited
                timings.encode = rest - waited
            else:
                timings.queue += rest

    def _pictures(self, members: Sequence[Prepared]) -> dict[str, NDArray[Any]]:
        ids, mask = self.tokenizer.pad([prepared.tokens for prepared in members])
        missing = min(-ids.shape[1] % self._pad_to, self.spec.max_tokens - ids.shape[1])
        if missing > 0:
            ids, mask = (np.pad(tokens, ((0, 0), (0, missing))) for tokens in (ids, mask))
        pixels = [prepared.pixels for prepared in members if prepared.pixels is not None]
        return {"pixels": np.stack(pixels), "token_ids": ids, "token_mask": mask}


class TritonLink:
    """What the gateway follows: the connection, and which bundle Triton's aliases lead to."""

    def __init__(
        self,
        addresses: str | Sequence[str],
        limits: Limits | None = None,
        shared_memory: Literal["auto", "off"] = "auto",
    ) -> None:
        """`addresses`: see `TritonClient`."""
        self.client = TritonClient(addresses, shared_memory)
        self._limits = limits

    def open(self, directory: Path | str) -> TritonEngine:
        """Open a bundle for its items, tokenizer and filters, with its changes; every hash is checked.

        What was added and deleted since it was built is applied here: Triton's models know the bundle as it was
        built. Raises BundleError.
        """
        return steadily(directory, lambda: self._open(directory))

    def _open(self, directory: Path | str) -> TritonEngine:
        bundle = Bundle.open(directory)
        engine = TritonEngine(bundle, self.client, self._limits)
        if changes := changes_of(bundle):
            engine.snapshot = engine.snapshot.apply(changes)
        return engine

    async def served(self, timeout_s: float) -> tuple[str, Path]:
        """Return (id, directory) of the bundle that Triton's aliases lead to; raises UnavailableError.

        Raises PreconditionError while several Tritons serve different bundles: they are being moved to another one.
        """
        served = {_bundle_of(config) for config in await self.client.configs("attribution", timeout_s)}
        if len(served) > 1:
            raise PreconditionError("Triton", f"its servers lead to {len(served)} bundles")
        bundle_id, directory = served.pop()
        if not bundle_id or not directory:
            raise UnavailableError("Triton's model `attribution` does not say which bundle it serves")
        return bundle_id, Path(directory)

    async def close(self) -> None:
        """End the connection."""
        await self.client.close()


def _bundle_of(config: dict[str, Any]) -> tuple[str, str]:
    parameters = config.get("parameters", {})
    values = {name: entry.get("string_value", "") for name, entry in parameters.items()}
    return values.get("bundle_id", ""), values.get("bundle", "")


def _embeddings(members: Sequence[Prepared]) -> NDArray[np.float32]:
    return np.stack([prepared.embedding for prepared in members if prepared.embedding is not None])
