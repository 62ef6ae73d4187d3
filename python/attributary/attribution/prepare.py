"""A query before it joins a batch: checked, decoded, resized, tokenised. The same for every engine."""

from __future__ import annotations

import hashlib
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from attributary.bundle.bundle import Bundle
from attributary.encoder.base import EncoderSpec
from attributary.encoder.text import PromptTokenizer
from attributary.errors import InvalidArgumentError
from attributary.index.base import VectorIndex
from attributary.pictures import pixels_digest, prepare_pixels, read
from attributary.pictures.looks import shows_nothing
from attributary.pictures.margins import overview

from .checks import check_certainty, check_embedding, check_pixels, check_prompt, resolve_counts
from .filters import FilterCompiler
from .snapshot import Snapshot
from .types import Limits, Options, PictureDigests, Prepared, Query


class Preparer:
    """Brings queries to what an engine needs. Safe to call from several threads."""

    def __init__(
        self,
        bundle: Bundle,
        spec: EncoderSpec,
        limits: Limits | None = None,
        index: VectorIndex | None = None,
    ) -> None:
        # Replaced as a whole when the bundle's items change; whoever needs two things of it takes it once.
        self.snapshot = Snapshot.of(bundle, index)
        if self.snapshot.names is not None:
            self.snapshot.names.ready()
        self.spec = spec
        self.limits = limits or Limits()
        self.tokenizer = PromptTokenizer.from_file(bundle.tokenizer_path, spec.max_tokens)

    @property
    def bundle(self) -> Bundle:
        """The bundle, its items as of now."""
        return self.snapshot.bundle

    @property
    def filters(self) -> FilterCompiler:
        """Filters over the items as of now."""
        return self.snapshot.filters

    def prepare(
        self, query: Query, options: Options | None = None, field: str = "query", *, wait: bool = True
    ) -> Prepared:
        """Check one query and bring it to what a batch needs: uint8 pixels [S, S, 3] and tokens, or a unit vector.

        Raises InvalidArgumentError with the path below `field` of the value at fault; cheap checks come first. With
        `wait` false, pictures.CostlyPicture for one that another process must decode: ask again where waiting is right.
        """
        options = options or Options()
        given = [name for name in ("image", "pixels", "embedding") if getattr(query, name) is not None]
        if len(given) != 1:
            raise InvalidArgumentError(
                field,
                f"exactly one of image, pixels, embedding must be given, got {', '.join(given) or 'none'}",
            )
        snapshot = self.snapshot
        top_k, top_creators = resolve_counts(options, snapshot.candidate_count, self.limits)
        if options.filter:
            snapshot.filters.check(options.filter, "options.filter")
        prepared = Prepared(top_k, top_creators, options.filter, query.has_prompt)
        if query.embedding is not None:
            if query.prompt:
                raise InvalidArgumentError(
                    f"{field}.prompt", "must be empty beside an embedding, which holds its prompt already"
                )
            if options.digests:
                raise InvalidArgumentError(f"{field}.embedding", "is no picture; a receipt is about one")
            if query.encoder_digest not in ("", self.spec.digest):
                raise InvalidArgumentError(
                    f"{field}.embedding.encoder_digest",
                    f"must be that of this bundle's encoder, {self.spec.digest}: another one's says nothing here",
                )
            prepared.embedding = check_embedding(query.embedding, self.spec, f"{field}.embedding")
            prepared.certainty = check_certainty(query.certainty, f"{field}.embedding.certainty")
            return prepared
        check_prompt(query.prompt, self.limits, f"{field}.prompt")
        seen = self._prepare_pixels(query, prepared, field, wait, options.digests)
        assert prepared.pixels is not None
        started = perf_counter()
        prepared.showing = snapshot.showing(prepared.pixels, seen)
        if not prepared.showing.size and shows_nothing(prepared.pixels):
            # So nobody made it: white ones lie near every drawing on white.
            prepared.certainty = 0.0
        prepared.timings.preprocess += ms_since(started)
        if query.prompt:
            started = perf_counter()
            prompt = query.prompt if snapshot.names is None else snapshot.names.without(query.prompt)
            prepared.tokens = self.tokenizer.encode(prompt, field=f"{field}.prompt")
            prepared.timings.tokenize = ms_since(started)
        # A prompt of blanks, or of a name alone, is no prompt: the encoder gets no token of it.
        prepared.has_prompt = prepared.tokens.size > 0
        return prepared

    def _prepare_pixels(
        self, query: Query, prepared: Prepared, field: str, wait: bool, digests: bool
    ) -> NDArray[np.uint8] | None:
        """Fill in the pixels; returns the overview of a picture that may lie within margins."""
        margins = self.snapshot.shared.recognises  # the same for all snapshots
        if query.image is not None:
            picture = read(
                query.image,
                self.spec.image_size,
                max_bytes=self.limits.max_image_bytes,
                max_pixels=self.limits.max_image_pixels,
                field=f"{field}.image",
                wait=wait,
                digest=digests,
                margins=margins,
            )
            prepared.pixels = picture.pixels
            prepared.timings.decode, prepared.timings.preprocess = picture.decode_ms, picture.resize_ms
            if digests:
                prepared.picture = PictureDigests(hashlib.sha256(query.image).hexdigest(), picture.digest)
            return picture.overview
        assert query.pixels is not None
        started = perf_counter()
        prepared.pixels = prepare_pixels(
            check_pixels(query.pixels, self.limits, f"{field}.pixels"), self.spec.image_size
        )
        prepared.timings.preprocess = ms_since(started)
        if digests:
            prepared.picture = PictureDigests("", pixels_digest(query.pixels))
        return overview(query.pixels) if margins else None


def ms_since(started: float) -> float:
    """Milliseconds since a perf_counter reading."""
    return (perf_counter() - started) * 1e3
