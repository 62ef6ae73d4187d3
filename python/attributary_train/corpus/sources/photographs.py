"""Photographs that come in a Debian package, as a person's own would come: files, and a table of what they show."""

from __future__ import annotations

import csv
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from PIL import Image

from attributary_train.corpus.fetch import PackageCache
from attributary_train.corpus.pins import ENDLESS_SKY
from attributary_train.errors import CorpusError

TABLE = "items.csv"
_IMAGES, _COPYRIGHT = "usr/share/games/endless-sky", "usr/share/doc/endless-sky-data/copyright"
_FOLDERS = ("images/land", "images/scene")
_WORD = re.compile(r"[a-z]+")
_HUES = ("red", "orange", "yellow", "green", "teal", "blue", "violet", "pink")


def write_photographs(out: Path, cache: PackageCache, limit: int | None = None) -> int:
    """Copy them to `out`/pictures with `out`/items.csv (file, caption, creator, licence) beside; return how many.

    A caption is the subject in the file's name with the tone and the hue that most of the picture has. Creators and
    licences are those of the package's copyright file. Raises `FetchError` if the package cannot be had.
    """
    root, _ = cache.debian(ENDLESS_SKY)
    rules = _rules(root / _COPYRIGHT)
    files = [path for name in _FOLDERS for path in sorted((root / _IMAGES / name).glob("*.jpg"))][:limit]
    if not files:
        raise CorpusError(str(root), "holds none of the photographs that it should")
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    with (out / TABLE).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(("file", "caption", "creator", "licence"))
        for path in files:
            name = f"{path.parent.name}-{path.name}"
            shutil.copyfile(path, out / "pictures" / name)
            creator, licence = _credit(path.relative_to(root / _IMAGES).as_posix(), rules)
            table.writerow((name, _caption(path), creator, licence))
    return len(files)


def _caption(path: Path) -> str:
    found = _WORD.match(path.stem)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("HSV").resize((32, 16)), np.float64)
    bright = pixels[..., 2].mean()
    tone = "dark" if bright < 90 else "bright" if bright > 150 else "plain"
    strong = pixels[..., 1] > 60
    hue = "grey"
    if strong.mean() > 0.2:
        places = (pixels[..., 0][strong] / 256 * len(_HUES)).astype(int)
        hue = _HUES[int(np.bincount(places, minlength=len(_HUES)).argmax())]
    return f"{tone} {hue} {found.group() if found else 'scene'}"


def _rules(path: Path) -> list[tuple[list[str], str, str]]:
    """(patterns, creator, licence) of the paragraphs of a machine-readable copyright file."""
    rules = []
    for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1] not in (" ", "\t") and ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
            elif name:
                fields[name] += f"\n{line.strip()}"
        if "Files" in fields:
            creator = fields.get("Copyright", "").strip().splitlines()[0].split("(")[0].split("<")[0].strip()
            rules.append((fields["Files"].split(), creator, fields.get("License", "").strip().split("\n")[0]))
    return rules


def _credit(name: str, rules: list[tuple[list[str], str, str]]) -> tuple[str, str]:
    """The last paragraph that names a file counts, as the format says."""
    found = ("", "")
    for patterns, creator, licence in rules:
        if any(fnmatch(name, pattern) for pattern in patterns):
            found = (creator, licence)
    return found
