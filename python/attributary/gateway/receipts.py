"""Signed answers: the server's keys, read again when their file changes, and the receipt of one answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from attributary.attribution.types import Attribution
from attributary.errors import PreconditionError, needs
from attributary.receipts.statement import QueryFacts, answer_statement, bundle_facts
from attributary.v1 import attribution_pb2 as pb

from .pipeline import Pipeline
from .reload import Watched

if TYPE_CHECKING:
    from attributary.receipts.keys import KeyFile


class Receipts:
    """What signs the answers of a server; `path` None signs nothing. Used from the event loop."""

    def __init__(self, path: Path | None) -> None:
        self._keys: Watched[KeyFile] | None = None
        # Hashing a manifest takes longer than signing; it never changes.
        self._bundles: WeakKeyDictionary[Pipeline, dict[str, Any]] = WeakKeyDictionary()
        if path is not None:
            with needs("receipts"):
                from attributary.receipts.keys import read_key_file
            self._keys = Watched(lambda: read_key_file(path), [path])

    def check(self) -> None:
        """Raise PreconditionError if this server signs nothing."""
        if self._keys is None:
            raise PreconditionError(
                "options.receipt", "this server signs no receipts; start it with --receipt-key-file"
            )

    async def sign(self, pipeline: Pipeline, answer: Attribution, query: QueryFacts) -> bytes:
        """Return the receipt of an answer that was asked for with digests."""
        assert self._keys is not None
        assert answer.picture is not None
        if pipeline not in self._bundles:
            self._bundles[pipeline] = bundle_facts(pipeline.engine.bundle.manifest)
        return await asyncio.to_thread(_sign, self._keys.value, answer, self._bundles[pipeline], query)

    def list_keys(self) -> pb.ListReceiptKeysResponse:
        """The public keys, the one that signs first."""
        keys = () if self._keys is None else self._keys.value.public
        return pb.ListReceiptKeysResponse(
            keys=[
                pb.ReceiptKey(key_id=key.key_id, pem=key.pem(), signs=place == 0)
                for place, key in enumerate(keys)
            ]
        )


def _sign(keys: KeyFile, answer: Attribution, bundle: dict[str, Any], query: QueryFacts) -> bytes:
    from attributary.receipts.envelope import seal

    assert answer.picture is not None
    return seal(answer_statement(answer, answer.picture, bundle, query), keys.signer)
