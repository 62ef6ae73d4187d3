"""A folder of pictures as people have them, and its table as a spreadsheet writes it."""

import unicodedata

import numpy as np
from PIL import Image

# Letters that come composed or not.
UMLAUTS = "Grüße aus Köln.JPG"


def picture(seed, size=(60, 40)):
    """Blurred colours, of a size in pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def write_messy(root, plain=12):
    """Write `root`/pictures and `root`/items.csv; returns (files that are pictures, rows that are none).

    Spaces, umlauts in either form, capitals, folders; CMYK, 16 bits, turned by EXIF, moving, transparent, grey, a
    palette, one pixel wide, a panorama, TIFF, BMP; broken, empty, cut off, missing, twice, without a caption; files
    that nobody lists. The table has a byte order mark, semicolons and CRLF.
    """
    folder = root / "pictures"
    (folder / "sub folder").mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    fading = picture(8).convert("RGBA")
    fading.putalpha(Image.fromarray(np.linspace(0, 255, 2400).reshape(40, 60).astype(np.uint8)))
    deep = Image.fromarray(np.asarray(picture(5).convert("L")).astype(np.uint16) * 257)
    kinds = {
        "my holiday photo.jpg": (picture(0), {}),
        UMLAUTS: (picture(1), {}),
        unicodedata.normalize("NFD", "Ärger é.png"): (picture(2), {}),
        "sub folder/ünder.PNG": (picture(3), {}),
        "cmyk.jpg": (picture(4).convert("CMYK"), {}),
        "sixteen bit.png": (deep, {}),
        "turned.jpeg": (picture(6), {"exif": turned}),
        "moving.gif": (picture(7), {"save_all": True, "append_images": [picture(70)]}),
        "transparent.png": (fading, {}),
        "grey.png": (picture(9).convert("L"), {}),
        "palette.png": (picture(10).convert("P"), {}),
        "panorama.webp": (picture(11, (400, 40)), {}),
        "scan.tif": (picture(12), {}),
        "tower.bmp": (picture(13, (20, 200)), {}),
    }
    kinds |= {f"plain {at}.jpg": (picture(20 + at, ((60, 30), (30, 60))[at % 2]), {}) for at in range(plain)}
    for name, (image, options) in kinds.items():
        image.save(folder / name, **options)
    whole = (folder / "my holiday photo.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut off.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "unlisted.jpg").write_bytes(whole)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "Thumbs.db").write_bytes(b"x")
    colours, shapes, names = ("red", "blue", "green"), ("ellipse", "square"), ("Ada", "Jürgen Müller")
    rows = [(name, f"a {colours[at % 3]} {shapes[at % 2]}", names[at % 2]) for at, name in enumerate(kinds)]
    bad = [
        ("broken.jpg", "a broken one", "Ada"),
        ("empty.png", "an empty one", "Ada"),
        ("cut off.jpg", "one cut off", "Ada"),
        ("gone.jpg", "not there", "Ada"),
        ("my holiday photo.jpg", "there twice", "Ada"),
        ("grey.png", "", "Ada"),
    ]
    lines = ["file;caption;creator", *(";".join(row) for row in [*rows, *bad])]
    text = unicodedata.normalize("NFC", "".join(f"{line}\r\n" for line in lines))
    (root / "items.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    return list(kinds), [row[0] for row in bad]
