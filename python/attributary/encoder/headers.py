"""Width and height of GIF and WebP pictures, read from their headers alone.

Pillow allocates the canvas of these two when it opens them, so their size has to be known before.
"""

from __future__ import annotations

from struct import unpack_from


def gif_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels: the screen, widened to the first frame where that sticks out.

    Source: GIF89a specification, sections 18 to 20. Raises `ValueError` or `struct.error` where the file ends
    early.
    """
    width, height, flags = unpack_from("<HHB", data, 6)
    at = 13 + _colours(flags)
    while data[at : at + 1] == b"!":  # an extension: label, then sub-blocks up to an empty one
        at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    if data[at : at + 1] != b",":
        raise ValueError("no frame in the file")
    left, top, frame_width, frame_height = unpack_from("<HHHH", data, at + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def _colours(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return int(3 << ((flags & 7) + 1)) if flags & 0x80 else 0


def webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels of a WebP's canvas.

    Source: RFC 9649, sections 2.5 to 2.7. Raises `ValueError` or `struct.error` for anything else.
    """
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if kind == b"VP8L":
        (bits,) = unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("unknown kind of WebP")
