"""Pages of items and creators. A page token is the last key of its page, so pages survive changes and compactions."""

from __future__ import annotations

import base64
import binascii
import heapq

import numpy as np
from numpy.typing import NDArray

from attributary.attribution.snapshot import Snapshot
from attributary.errors import InvalidArgumentError, check_range
from attributary.v1 import attribution_pb2 as pb

from . import translate

_DEFAULT_SIZE, _MAX_SIZE = 100, 1_000
_CHUNK = 8_192
_MAX_SEARCH = 200


def items(snapshot: Snapshot, request: pb.ListItemsRequest) -> pb.ListItemsResponse:
    """Return one page of items by ascending id; raises InvalidArgumentError naming the field."""
    size = _size(request)
    after = _id_of(request.page_token) if request.page_token else None
    table = snapshot.bundle.items
    wanted = None
    if request.creator:
        wanted = table.creator_codes.code(request.creator)
        if wanted is None:
            raise InvalidArgumentError("creator", f"no item has the creator {request.creator[:80]!r}")
    holds = _search(snapshot, request.search) if request.search else None
    found: list[int] = []
    # A whole page and one more say whether there are more; without a condition the first chunk has them.
    for chunk in table.rows_by_id(after, size + 1 if wanted is None and holds is None else _CHUNK):
        rows = chunk if snapshot.alive is None else chunk[snapshot.alive[chunk]]
        if wanted is not None:
            rows = rows[table.creator_of_row[rows] == wanted]
        if holds is not None:
            rows = rows[holds[rows]]
        found += rows[: size + 1 - len(found)].tolist()
        if len(found) > size:
            break
    page = [translate.item_of_row(snapshot, row) for row in found[:size]]
    return pb.ListItemsResponse(
        items=page, next_page_token=_token(str(page[-1].id)) if len(found) > size else ""
    )


def creators(snapshot: Snapshot, request: pb.ListCreatorsRequest) -> pb.ListCreatorsResponse:
    """Return one page of creators by name; raises InvalidArgumentError naming the field."""
    size = _size(request)
    text = _text(request.search)
    after = _key_of(request.page_token) if request.page_token else None
    table, counts = snapshot.bundle.items, snapshot.filters.creators
    found = heapq.nsmallest(
        size + 1,
        (
            (name, code)
            for code, name in enumerate(table.creator_names[: len(counts)])
            if counts[code] and (after is None or name > after) and text in name.lower()
        ),
    )
    first = _first_rows(snapshot, len(counts))
    page = [
        pb.Creator(
            name=name,
            creator_url=table.creator_url(int(first[code])),
            item_count=int(counts[code]),
            creator_ids=table.ids_of(name),
        )
        for name, code in found[:size]
    ]
    return pb.ListCreatorsResponse(
        creators=page, next_page_token=_token(page[-1].name) if len(found) > size else ""
    )


def _first_rows(snapshot: Snapshot, codes: int) -> NDArray[np.int64]:
    """The first row of each creator that has not been deleted, int64 [codes]."""
    of_row = snapshot.bundle.items.creator_of_row
    rows = np.arange(len(of_row)) if snapshot.alive is None else np.flatnonzero(snapshot.alive)
    first = np.zeros(codes, np.int64)
    # Of values for one place the last stays: from behind, that is the first.
    first[of_row[rows[::-1]]] = rows[::-1]
    return first


def _search(snapshot: Snapshot, search: str) -> NDArray[np.bool_]:
    """Which rows hold a text in caption or creator, whatever its case; bool [N]."""
    table, text = snapshot.bundle.items, _text(search)
    holds = table.rows_with(text)
    named = np.array([text in name.lower() for name in table.creator_names])
    return np.asarray(holds | named[table.creator_of_row])


def _text(search: str) -> str:
    if len(search) > _MAX_SEARCH:
        raise InvalidArgumentError("search", f"has {len(search)} characters, the limit is {_MAX_SEARCH}")
    return search.lower()


def _size(request: pb.ListItemsRequest | pb.ListCreatorsRequest) -> int:
    size = request.page_size if request.HasField("page_size") else _DEFAULT_SIZE
    check_range("page_size", size, 1, _MAX_SIZE)
    return size


def _token(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _key_of(token: str) -> str:
    try:
        return base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True).decode()
    except (UnicodeError, binascii.Error):
        raise InvalidArgumentError("page_token", "is not one that this server gave") from None


def _id_of(token: str) -> int:
    key = _key_of(token)
    try:
        item_id = int(key)
    except ValueError:
        item_id = 2**63
    if not -(2**63) <= item_id < 2**63:
        raise InvalidArgumentError("page_token", "is not one that this server gave")
    return item_id
