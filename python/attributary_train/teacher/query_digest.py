"""What a query is, in sixteen characters: two files of queries may use the same names for other pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from attributary_train.errors import TeacherError
from attributary_train.subject.queries import Queries


def query_digests(queries: Queries) -> tuple[str, ...]:
    """A digest of each query, 16 hexadecimal digits: name, prompt, seed, model, sampler's settings and latents."""
    out = []
    for row, name in enumerate(queries.names):
        parts = [name, queries.prompts[row], int(queries.seeds[row])]
        parts += [queries.weights, int(queries.steps), float(queries.guidance)]
        total = hashlib.sha256(json.dumps(parts).encode())
        total.update(queries.latents[row].contiguous().cpu().numpy().tobytes())
        out.append(total.hexdigest()[:16])
    return tuple(out)


def require_same_queries(queries: Queries, known: Mapping[str, str] | None, where: str) -> None:
    """Raise `TeacherError` naming the first query of another digest; `known` is by name, None is unchecked."""
    if known is None:
        return
    for name, digest in zip(queries.names, query_digests(queries), strict=True):
        if known.get(name, digest) != digest:
            raise TeacherError(where, f"query {name} is another one there: other prompt, seed or picture")
