"""Law 4: a picture is turned as `PIL.ImageOps.exif_transpose` turns it, wherever its orientation stands."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from attributary.pictures import decode
from attributary.pictures.orientation import orientation
from tests.support.picture_files import (
    after_ihdr,
    after_soi,
    before_iend,
    chunk,
    encoded,
    extended_webp,
    photo,
    segment,
    tiff,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TAG, SHORT = 0x0112, 3
KINDS = {  # every type of TIFF and how its values are packed
    1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 6: "b", 7: "c",
    8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I", 16: "Q",
}  # fmt: skip
JPEG, PNG = encoded(photo(), "JPEG", quality=95), encoded(photo(), "PNG")
ATTRIBUTE = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>'
ELEMENT = b"<rdf:Description><tiff:Orientation>%d</tiff:Orientation></rdf:Description>"


def value_of(kind: int, value: int) -> bytes:
    """One orientation as a value of a TIFF type; rationals over 1."""
    if kind in (5, 10):
        return struct.pack("<" + KINDS[kind], value, 1)
    return struct.pack("<" + KINDS[kind], b"%d" % value if KINDS[kind] == "c" else value)


def of_kind(kind: int, value: int, count: int = 1) -> bytes:
    """An EXIF block whose orientation has this type."""
    packed = value_of(kind, value) * count
    if len(packed) <= 4:
        return tiff([(TAG, kind, count, packed)])
    return tiff([(TAG, kind, count, struct.pack("<I", 8 + 2 + 12 + 4))], tail=packed)


def blocks(value: int) -> dict[str, bytes]:
    """EXIF blocks that hold `value`, legal and odd."""
    short = struct.pack("<H", value)
    others = [(tag, 2, 3, b"abc\0") for tag in (0x010E, 0x010F, 0x0110)]
    out = {f"type {kind}": of_kind(kind, value) for kind in KINDS}
    out |= {f"type {kind}, two values": of_kind(kind, value, 2) for kind in KINDS}
    return out | {
        "big endian": tiff([(TAG, SHORT, 1, struct.pack(">H", value))], ">"),
        "big endian LONG": tiff([(TAG, 4, 1, struct.pack(">I", value))], ">"),
        "last of several": tiff([*others, (TAG, SHORT, 1, short)]),
        "before others": tiff([(TAG, SHORT, 1, short), *others]),
        "directory far back": tiff([(TAG, SHORT, 1, short)], at=4_000),
        "odd offset": tiff([(TAG, SHORT, 1, short)], at=9),
        "twice": tiff([(TAG, SHORT, 1, short), (TAG, SHORT, 1, b"\1\0")]),
        "behind a tag that points nowhere": tiff([(0x010F, 2, 900, b"\xff" * 4), (TAG, SHORT, 1, short)]),
        "behind a tag of an unknown type": tiff([(0x010F, 99, 1, b"\0"), (TAG, SHORT, 1, short)]),
        "cut off behind it": tiff([(TAG, SHORT, 1, short), *others])[:24],
        "of many tags": tiff([(tag, 2, 3, b"abc\0") for tag in range(1, 250)] + [(TAG, SHORT, 1, short)]),
        "reversed magic": b"II\0*" + tiff([(TAG, SHORT, 1, short)])[4:],
    }


def xmp(template: bytes, value: int) -> bytes:
    """An XMP packet."""
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>' + template % value + b"</rdf:RDF></x:xmpmeta>"


def raw_profile(exif: bytes, name: bytes = b"exif") -> bytes:
    """ImageMagick's text of a profile: hexadecimal in lines of 36 bytes."""
    body = b"Exif\0\0" + exif
    lines = [body[at : at + 36].hex().encode() for at in range(0, len(body), 36)]
    return b"\n%b\n%8d\n" % (name, len(body)) + b"\n".join(lines) + b"\n"


def international(key: bytes, text: bytes, packed: bool) -> bytes:
    """A PNG's iTXt chunk."""
    return chunk(
        b"iTXt", key + b"\0" + bytes([packed, 0]) + b"\0\0" + (zlib.compress(text) if packed else text)
    )


def jpegs(value: int) -> dict[str, bytes]:
    """JPEG files that hold `value`."""
    exif = segment(0xE1, b"Exif\0\0" + tiff([(TAG, SHORT, 1, struct.pack("<H", value))]))
    other = segment(0xE1, b"Exif\0\0" + tiff([(TAG, SHORT, 1, b"\1\0")]))
    packet = [
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(form, value)) for form in (ATTRIBUTE, ELEMENT)
    ]
    out = {name: segment(0xE1, b"Exif\0\0" + block) for name, block in blocks(value).items()}
    out |= {
        "exif twice headed": segment(0xE1, b"Exif\0\0Exif\0\0" + exif[10:]),
        "fill bytes": b"\xff" * 9 + exif,
        "fill bytes behind": exif + b"\xff" * 9,
        "junk between": segment(0xFE, b"x") + b"\0\1\2" + exif + b"\0\0",
        "behind other segments": segment(0xE2, b"ICC_PROFILE\0\1\1" + b"x" * 500) + segment(0xFE, b"hi") + exif,
        "split in two": exif[:2] + struct.pack(">H", 2 + 6 + 11) + exif[4:21] + segment(0xE1, b"Exif\0\0" + exif[21:]),
        "two blocks": exif + other,
        "two blocks, upright first": other + exif,
        "wrong marker": segment(0xE3, exif[4:]),
        "empty": segment(0xE1, b"Exif\0\0"),
        "XMP attribute": packet[0],
        "XMP element": packet[1],
        "XMP behind EXIF": other + packet[0],
        "XMP before EXIF without an orientation": packet[0] + segment(0xE1, b"Exif\0\0" + tiff([])),
        "XMP twice": packet[0] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(ATTRIBUTE, 1)),
    }  # fmt: skip
    files = {name: after_soi(JPEG, extra) for name, extra in out.items()}
    scan = JPEG.index(b"\xff\xda")
    files["just before the scan"] = JPEG[:scan] + exif + JPEG[scan:]
    files["behind the end"] = JPEG + exif
    scans = encoded(photo(), "JPEG", progressive=True)
    between = scans.rindex(b"\xff\xda")
    files["between two scans"] = scans[:between] + exif + scans[between:]
    frames = [photo(), photo().rotate(180)]
    block = Image.Exif()
    block[TAG] = value
    files["MPO"] = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:], exif=block, quality=95)
    files["progressive"] = encoded(photo(), "JPEG", progressive=True, exif=block)
    files["grey"] = encoded(photo().convert("L"), "JPEG", exif=block)
    files["CMYK"] = encoded(photo().convert("CMYK"), "JPEG", exif=block)
    return files


def pngs(value: int) -> dict[str, bytes]:
    """PNG files that hold `value`."""
    exif = tiff([(TAG, SHORT, 1, struct.pack("<H", value))])
    out = {f"eXIf, {name}": chunk(b"eXIf", block) for name, block in blocks(value).items()}
    for name, key in (("exif", b"Raw profile type exif"), ("APP1", b"Raw profile type APP1")):
        text = raw_profile(exif, name.encode())
        out[f"raw profile {name}, tEXt"] = chunk(b"tEXt", key + b"\0" + text)
        out[f"raw profile {name}, zTXt"] = chunk(b"zTXt", key + b"\0\0" + zlib.compress(text))
        out[f"raw profile {name}, iTXt"] = international(key, text, packed=False)
    out["raw profile, not hexadecimal"] = chunk(b"tEXt", b"Raw profile type exif\0\n\n\nxyz")
    out["XMP over EXIF"] = international(b"XML:com.adobe.xmp", xmp(ATTRIBUTE, value), packed=False) + chunk(
        b"eXIf", tiff([(TAG, SHORT, 1, b"\1\0")])
    )
    out["text named exif"] = chunk(b"tEXt", b"exif\0Exif\0\0" + exif)
    for form in (ATTRIBUTE, ELEMENT):
        for packed in (False, True):
            out[f"XMP {form[:10]!r} {packed}"] = international(b"XML:com.adobe.xmp", xmp(form, value), packed)
    files = {f"{name}, before": after_ihdr(PNG, extra) for name, extra in out.items()}
    files |= {f"{name}, behind": before_iend(PNG, extra) for name, extra in out.items()}
    frames = encoded(photo(), "PNG", save_all=True, append_images=[photo().rotate(90)])
    files["animation, before"] = after_ihdr(frames, chunk(b"eXIf", exif))
    files["animation, behind"] = before_iend(frames, chunk(b"eXIf", exif))
    palette = encoded(photo().quantize(16), "PNG")
    return files | {"palette": after_ihdr(palette, chunk(b"eXIf", exif))}


def webps(value: int) -> dict[str, bytes]:
    """WebP files that hold `value`."""
    exif = tiff([(TAG, SHORT, 1, struct.pack("<H", value))])
    files = {f"EXIF, {name}": extended_webp(8, (b"EXIF", block)) for name, block in blocks(value).items()}
    return files | {
        "EXIF headed": extended_webp(8, (b"EXIF", b"Exif\0\0" + exif)),
        "EXIF without its flag": extended_webp(0, (b"EXIF", exif)),
        "EXIF behind an unknown chunk": extended_webp(8, (b"abcd", b"123"), (b"EXIF", exif)),
        "XMP": extended_webp(4, (b"XMP ", xmp(ATTRIBUTE, value))),
        "XMP element": extended_webp(4, (b"XMP ", xmp(ELEMENT, value))),
        "XMP behind EXIF": extended_webp(12, (b"EXIF", tiff([])), (b"XMP ", xmp(ATTRIBUTE, value))),
    }


def as_pillow_turns_it(data: bytes) -> np.ndarray:
    """The reference; a picture whose metadata it stumbles over is not turned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        except Exception:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("files", [jpegs, pngs, webps], ids=["JPEG", "PNG", "WebP"])
@pytest.mark.parametrize("value", range(10))
def test_turned_as_pillow_does(files, value):
    for name, data in files(value).items():
        expected = as_pillow_turns_it(data)
        got = decode(data)
        assert got.shape == expected.shape, name
        assert np.array_equal(got, expected), name


def test_the_matrix_turns():
    # It would prove nothing if the reference left everything as it is.
    for files in (jpegs, pngs, webps):
        turned = [as_pillow_turns_it(data).shape[:2] == (32, 24) for data in files(6).values()]
        assert sum(turned) > len(turned) / 2


def test_avif_is_turned():
    exif = Image.Exif()
    exif[TAG] = 6
    data = encoded(photo(), "AVIF", exif=exif)
    assert np.array_equal(decode(data), as_pillow_turns_it(data))
    assert decode(data).shape == (32, 24, 3)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 255)), max_size=4), st.integers(0, 64))
def test_damaged_blocks_say_what_they_say_to_pillow(changes, length):
    block = bytearray(blocks(6)["last of several"])
    for at, byte in changes:
        block[at % len(block)] = byte
    info = {"exif": b"Exif\0\0" + bytes(block[: max(8, length)])}
    probe = Image.Image()
    probe.info = info
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = probe.getexif().get(TAG, 1)
        except Exception:
            expected = 1
        assert orientation(info) == (expected if expected in range(1, 9) else 1)


def test_a_directory_of_65535_tags_is_not_read_to_its_end(monkeypatch):
    from PIL import TiffImagePlugin

    looked = []
    monkeypatch.setattr(TiffImagePlugin.TiffTags, "lookup", lambda *tag: looked.append(tag) or _Named)
    block = tiff([(tag, SHORT, 1, b"\1\0") for tag in range(65_535)])
    assert orientation({"exif": b"Exif\0\0" + block}) == 1
    assert len(looked) <= 1_100


class _Named:
    name = "tag"
    length = None
    type = None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), kind, exif=exif.tobytes())
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode(data), np.asarray(expected))


@pytest.mark.parametrize(
    "exif", [b"\xff" * 40, b"II*\0", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x05\x01\x12", b""]
)
def test_broken_exif_is_ignored_without_a_warning(exif):
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0" + exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).shape == (24, 32, 3)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_unknown_orientations_are_left_alone(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert decode(encoded(photo(), "JPEG", exif=exif.tobytes())).shape == (24, 32, 3)
