"""What Pillow would tell too late or too loudly: sizes of GIF and WebP, and the orientation tag.

Pillow allocates the canvas of these two when it opens them, so their size has to be known before. Its
reader of tags warns, through Python's warnings, about every damaged one.
"""

from __future__ import annotations

from struct import error as StructError  # noqa: N812 - an exception
from struct import unpack_from

_ORIENTATION, _SHORT = 0x0112, 3


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


def split_exif(jpeg: bytes) -> tuple[bytes, bytes]:
    """Take the EXIF block out of a JPEG: returns (block, empty where there is none; the JPEG without it).

    Source: ITU-T T.81, annex B (segments before the first scan). A damaged file comes back as it is.
    """
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == 0xDA or length < 2:
            break
        if marker == 0xE1 and jpeg[at + 4 : at + 10] == b"Exif\0\0":
            end = at + 2 + length
            return jpeg[at + 4 : end], jpeg[:at] + jpeg[end:]
        at += 2 + length
    return b"", jpeg


def exif_orientation(exif: bytes) -> int:
    """Value of the orientation tag in an EXIF block, 1 (upright) where there is none or the block is damaged.

    Source: EXIF 2.32, section 4.6 (TIFF header, first directory, tag 0x0112 of type SHORT).
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = unpack_from(order + "I", tiff, 4)
        (entries,) = unpack_from(order + "H", tiff, directory)
        for entry in range(entries):
            tag, kind, count, value = unpack_from(order + "HHIH", tiff, directory + 2 + 12 * entry)
            if tag == _ORIENTATION and kind == _SHORT and count == 1:
                return int(value)
    except StructError:
        pass
    return 1
