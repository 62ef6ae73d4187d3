"""Coverage-guided fuzzing of every other Python parser of outsiders' bytes: what it should say, or a typed error.

    python tests/fuzz/parsers.py wire -max_total_time=600 -timeout=10 [CORPUS]

Needs `pip install attributary[fuzz]`; `tests/fuzz/test_targets.py` runs each target for a moment without it.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attributary.attribution.names import PromptNames

Target = Callable[[bytes], None]
NOWHERE = Path("fuzz/journal.log")


def wire(data: bytes) -> None:
    """Messages of both services, looked at before they are parsed, parsed, and searched for their fault."""
    from attributary.errors import InvalidArgumentError
    from attributary.gateway import translate
    from attributary.gateway.translate import check_outline
    from attributary.v1 import admin_pb2, attribution_pb2

    kinds = (
        attribution_pb2.AttributeRequest,
        attribution_pb2.AttributeBatchRequest,
        attribution_pb2.AttributeStreamRequest,
        attribution_pb2.ListItemsRequest,
        admin_pb2.AddItemsRequest,
        admin_pb2.DeleteItemsRequest,
        admin_pb2.DecideHeldRequest,
    )
    kind = kinds[data[0] % len(kinds)] if data else kinds[0]
    try:
        check_outline(data[1:], kind.DESCRIPTOR, {"queries": 16})
        message = translate.parse(kind, data[1:])
        if isinstance(message, attribution_pb2.AttributeRequest):
            translate.to_options(message.options)
            from attributary.attribution.types import Limits

            translate.to_query(message.query, Limits(), "query")
    except InvalidArgumentError as error:
        assert error.field


def journal(data: bytes) -> None:
    """A journal's file: framed records, and what they say."""
    from attributary.delta.journal.log import MAGIC, START, DamageError, _framed, _records
    from attributary.delta.journal.records import UnreadableError, decode

    with contextlib.suppress(DamageError):
        list(_records(NOWHERE, data, START))
    framed, _ = _framed(data, START)
    assert [payload for payload, _ in _records(NOWHERE, framed, START)] == [data]
    assert not framed.startswith(MAGIC)
    with contextlib.suppress(UnreadableError):
        decode(data, 4)


def tokens(data: bytes) -> None:
    """A line of a tokens file."""
    from attributary.gateway.tokens import ADMIN_ROLES, QUERY_ROLES, _owner

    words = data.decode("utf-8", errors="replace").split()
    for roles in (QUERY_ROLES, ADMIN_ROLES):
        if words:
            try:
                _, owner = _owner(list(words), roles)
            except ValueError:
                continue
            assert owner.roles <= roles
            assert owner.rate >= 0


def signed(data: bytes) -> None:
    """A JWKS document, and a signed token that nobody signed."""
    from attributary.errors import InvalidArgumentError
    from attributary.gateway.tokens import JwtReader, read_keys

    with contextlib.suppress(InvalidArgumentError):
        read_keys(data)
    reader = JwtReader(lambda _: {}, "issuer", "audience", "roles")
    assert reader.owner(data.decode("utf-8", errors="replace")) is None


def pages(data: bytes) -> None:
    """Page tokens."""
    from attributary.errors import InvalidArgumentError
    from attributary.gateway.listing import _id_of, _key_of

    for read in (_id_of, _key_of):
        with contextlib.suppress(InvalidArgumentError):
            read(data.decode("utf-8", errors="replace"))


def looks(data: bytes) -> None:
    """Pixels of an addition, from several sides."""
    import numpy as np

    from attributary.pictures.looks import SIZE, Newcomer

    side = 8 + (data[0] % 57 if data else 0)
    levels = np.resize(np.frombuffer(data or b"\0", np.uint8), (side, side, 3)).copy()
    newcomer = Newcomer(levels)
    assert newcomer.look.shape == (2, SIZE)
    if newcomer.look.any():
        assert [match.row for match in newcomer.among(newcomer.look[None])] == [0]


@cache
def _names() -> PromptNames:
    import pyarrow as pa

    from attributary.attribution.names import PromptNames
    from attributary.bundle.items import ItemTable

    creators = ("Danny Allen", "Apple", "Gerald G.", "Mo", "Zo\u00eb", "\u7530\u4e2d")
    text = {name: [""] * 6 for name in ("creator_url", "licence", "uri")}
    captions = ["a red apple", "lion", "moon", "drum", "cloud", "hat"]
    columns = {"id": range(6), "near_dup_group": range(6), "caption": captions, "creator": creators}
    return PromptNames(ItemTable(pa.table({name: list(found) for name, found in (columns | text).items()})))


def prompts(data: bytes) -> None:
    """Prompts without creators' names: none is left, and nothing more is taken the second time."""
    prompt = data.decode("utf-8", "replace")
    found = _names().without(prompt)
    assert _names().without(found) == found
    assert len(found) <= len(prompt)


TARGETS: dict[str, Target] = {
    one.__name__: one for one in (wire, journal, tokens, signed, pages, looks, prompts)
}
SEEDS: dict[str, tuple[bytes, ...]] = {
    "wire": (
        b"\0\n\x04\n\x02ab",
        b"\1\n\x02\x12\0",
        b"\2\n\x01a",
        b"\4\x12\x05\x08\x01\x12\x01x",
        b"\5\n\x03\n\x01\x05",
    ),
    "prompts": (
        b"taco, Twemoji style by Danny Allen",
        "D.a.n.n.y \u00c4llen's Zoe\u0308, in the style of \u7530\u4e2d".encode(),
        b"apple by Apple and (art by) Gerald G. Mo",
    ),
    "journal": (b'\x15\0\0\0{"kind":"delete","x":1}', b"ATJR" + bytes(40), b"\x02\0\0\0{}"),
    "tokens": (
        b"ann secret rate=2 roles=query quota=5",
        b"kim sha256:" + b"0" * 64 + b" roles=contribute items=3",
    ),
    "signed": (
        b'{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}',
        b"eyJhbGciOiJub25lIn0.e30.",
    ),
    "pages": (b"MTIz", b"QW5u"),
    "looks": (bytes(range(200)), b"\xff" * 64),
}


def main() -> None:
    """Fuzz the target that is named first."""
    import atheris

    name = sys.argv.pop(1)
    target = TARGETS[name]
    if not any(not argument.startswith("-") for argument in sys.argv[1:]):
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
        for number, seed in enumerate(SEEDS[name]):
            (folder / str(number)).write_bytes(seed)
        sys.argv.append(str(folder))
    with atheris.instrument_imports(include=["attributary"]):
        for seed in SEEDS[name]:
            target(seed)
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
