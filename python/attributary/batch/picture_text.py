"""The texts that a picture's file carries: PNG text chunks and EXIF of PNG, JPEG and WebP. Reads no pixel.

Bounded: chunks are skipped by their lengths, at most `_MAX_CHUNKS` of them, and texts are cut where they inflate to
more than `_MAX_TEXT` bytes. Sources: PNG 3rd edition, sections 11.3.3; ITU-T T.81 annex B; RFC 9649; EXIF 2.32.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import error as StructError  # noqa: N812 - an exception
from struct import unpack_from

_MAX_CHUNKS = 10_000
_MAX_TEXT = 1 << 20
_MAX_ENTRIES = 512
# Tags: (name here, number).
_TAGS = {
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x9286: "UserComment",
    0x9C9C: "XPComment",
}
_EXIF_DIRECTORY = 0x8769
_ASCII, _BYTE, _UNDEFINED = 2, 1, 7


def picture_texts(data: bytes) -> dict[str, str]:
    """Return {keyword or EXIF tag: text} of a picture; empty where there is none or the file is damaged."""
    found: dict[str, str] = {}
    try:
        for name, text in _texts(data):
            if text.strip("\0 \r\n\t"):
                found.setdefault(name, text)
    except (StructError, IndexError, ValueError, zlib.error):
        # Whether it is a picture at all is the decoder's to say.
        pass
    return found


def _texts(data: bytes) -> Iterator[tuple[str, str]]:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        for kind, body in _png_chunks(data):
            if kind == b"eXIf":
                yield from _exif(body)
            elif (text := _png_text(kind, body)) is not None:
                yield text
    elif data.startswith(b"\xff\xd8\xff"):
        for marker, body in _jpeg_segments(data):
            if marker == 0xE1 and body.startswith(b"Exif\0\0"):
                yield from _exif(body[6:])
            elif marker == 0xFE:
                yield "Comment", _decoded(body)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        for kind, body in _webp_chunks(data):
            if kind == b"EXIF":
                yield from _exif(body.removeprefix(b"Exif\0\0"))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    for _ in range(_MAX_CHUNKS):
        length, kind = unpack_from(">I4s", data, at)
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IEND" or at + 8 > len(data):
            return


def _png_text(kind: bytes, body: bytes) -> tuple[str, str] | None:
    keyword, _, rest = body.partition(b"\0")
    name = keyword.decode("latin-1")
    if kind == b"tEXt":
        # Latin-1 by the book; generators write UTF-8.
        return name, _decoded(rest[:_MAX_TEXT])
    if kind == b"zTXt":
        return name, _decoded(_inflated(rest[1:]))
    packed, (_, _, text) = rest[:1] == b"\1", _itxt(rest)
    return name, _decoded(_inflated(text) if packed else text[:_MAX_TEXT])


def _itxt(rest: bytes) -> tuple[bytes, bytes, bytes]:
    language, _, after = rest[2:].partition(b"\0")
    translated, _, text = after.partition(b"\0")
    return language, translated, text


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _MAX_TEXT)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 2
    for _ in range(_MAX_CHUNKS):
        marker, length = unpack_from(">xBH", data, at)
        if data[at] != 0xFF or marker == 0xDA or length < 2:
            return
        if marker in (0xE1, 0xFE):
            yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    for _ in range(_MAX_CHUNKS):
        kind, length = unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)
        if at + 8 > len(data):
            return


def _exif(tiff: bytes) -> Iterator[tuple[str, str]]:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return
    (directory,) = unpack_from(order + "I", tiff, 4)
    places = [directory]
    for at in places:
        (entries,) = unpack_from(order + "H", tiff, at)
        for entry in range(min(entries, _MAX_ENTRIES)):
            place = at + 2 + 12 * entry
            tag, kind, count = unpack_from(order + "HHI", tiff, place)
            if tag == _EXIF_DIRECTORY and len(places) == 1:
                places += unpack_from(order + "I", tiff, place + 8)
            elif tag in _TAGS and kind in (_ASCII, _BYTE, _UNDEFINED):
                start = place + 8 if count <= 4 else unpack_from(order + "I", tiff, place + 8)[0]
                value = tiff[start : start + min(count, _MAX_TEXT)]
                yield _TAGS[tag], _comment(value, order) if tag == 0x9286 else _tag_text(tag, value)


def _tag_text(tag: int, value: bytes) -> str:
    return (
        value.decode("utf-16-le", "replace").rstrip("\0") if tag == 0x9C9C else _decoded(value.rstrip(b"\0"))
    )


def _comment(value: bytes, order: str) -> str:
    """A UserComment: eight bytes say how the rest is written, and are often wrong."""
    code, text = value[:8], value[8:]
    if code == b"UNICODE\0":
        if text.startswith((b"\xff\xfe", b"\xfe\xff")):
            return text.decode("utf-16", "replace")
        # By the book in the order of the block; the common writer uses big-endian whatever that is.
        if 0 not in text:
            # UTF-8 under the wrong name, or a script without Latin letters.
            try:
                return text.decode("utf-8")
            except UnicodeDecodeError:
                pass
        read = {name: text.decode(name, "replace").rstrip("\0") for name in ("utf-16-be", "utf-16-le")}
        # Read the wrong way round, one script's characters scatter over all of them.
        spread = {name: len({ord(sign) >> 8 for sign in found}) for name, found in read.items()}
        if spread["utf-16-be"] == spread["utf-16-le"]:
            return read["utf-16-le" if order == "<" else "utf-16-be"]
        return read[min(spread, key=lambda name: spread[name])]
    known = code in (b"ASCII\0\0\0", b"JIS\0\0\0\0\0", bytes(8))
    return _decoded((text if known else value).rstrip(b"\0"))


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
