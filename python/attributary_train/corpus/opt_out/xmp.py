"""Data mining in XMP, inside or beside a picture: the property of PLUS, in IPTC's Photo Metadata, and TDMRep's."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from typing import Any, Final

from PIL import Image

from attributary_train.corpus.opt_out.signal import Means, Signal, meaning_of_flag

_PLUS: Final = "{http://ns.useplus.org/ldf/xmp/1.0/}DataMining"
# "/" in the report of the W3C's group, "#" in its vocabulary.
_TDM: Final = tuple(f"{{http://www.w3.org/ns/tdmrep{end}}}reservation" for end in "/#")
MAX_XMP: Final = 4 << 20
# http://ns.useplus.org/ldf/vocab/..., the last part.
_MEANS: Final[dict[str, Means]] = {
    "DMI-UNSPECIFIED": "unspecified",
    "DMI-ALLOWED": "allowed",
    "DMI-PROHIBITED": "reserved",
    "DMI-PROHIBITED-AIMLTRAINING": "reserved",
    "DMI-PROHIBITED-GENAIMLTRAINING": "reserved",
    "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING": "reserved",
    "DMI-PROHIBITED-SEECONSTRAINT": "conditional",
    "DMI-PROHIBITED-SEEEMBEDDEDRIGHTSEXPR": "conditional",
    "DMI-PROHIBITED-SEELINKEDRIGHTSEXPR": "conditional",
}


def xmp_of(picture: bytes) -> bytes:
    """Return the XMP packet inside a picture's file, empty where there is none or the file cannot be read."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            info: dict[Any, Any] = dict(image.info)
            if not info.get("xmp") and image.format == "PNG":
                # Text may stand behind the pixels.
                image.load()
                info = dict(image.info)
            found = info.get("xmp") or info.get("XML:com.adobe.xmp") or _raw_profile(info)
    except Exception:  # decoders raise whatever they like on damaged files
        return b""
    return found.encode("utf-8", "replace") if isinstance(found, str) else bytes(found)


def _raw_profile(info: dict[str, Any]) -> bytes:
    """The packet as ImageMagick writes it into a PNG: a name, a length, and hex."""
    return bytes.fromhex("".join(str(info.get("Raw profile type xmp", "")).split("\n")[3:]))


def data_mining(packet: bytes, source: str, sha256: str) -> list[Signal]:
    """Return what an XMP packet says of text and data mining."""
    wide = packet.startswith((b"\xff\xfe", b"\xfe\xff"))
    narrow = packet.replace(b"\0", b"") if wide else packet
    kind = "iptc-plus" if b"DataMining" in narrow else "tdmrep"
    if b"DataMining" not in narrow and b"ns/tdmrep" not in narrow:
        return []
    # No XMP has a document type; with one, few bytes can stand for many.
    if len(packet) > MAX_XMP or b"<!DOCTYPE" in narrow or b"<!ENTITY" in narrow:
        return [Signal(kind, "unreadable", "XMP that is too large or has entities", source, sha256)]
    try:
        root = ElementTree.fromstring(packet if wide else packet.strip(b"\0 \t\r\n"))
    except (ElementTree.ParseError, ValueError) as error:
        return [Signal(kind, "unreadable", f"XMP is damaged: {error}", source, sha256)]
    return [
        Signal(kind, meaning(value), value[:200], source, sha256)
        for kind, names, meaning in (("iptc-plus", (_PLUS,), _meaning), ("tdmrep", _TDM, meaning_of_flag))
        for value in dict.fromkeys(value for element in root.iter() for value in _values(element, names))
    ]


def _values(element: ElementTree.Element, names: tuple[str, ...]) -> list[str]:
    """The property as an attribute of a description, as an element with text, or with an rdf:resource."""
    found = [value for name, value in element.attrib.items() if name in names]
    if element.tag in names:
        found += [text for text in (element.text, *element.attrib.values()) if text and text.strip()]
    return [value.strip() for value in found if value.strip()]


def _meaning(value: str) -> Means:
    name = value.rstrip("/").rpartition("/")[2].upper()
    if name in _MEANS:
        return _MEANS[name]
    # A later edition of the vocabulary: what it forbids is not for us to guess, that it forbids is.
    return "conditional" if name.startswith("DMI-PROHIBITED") else "unreadable"
