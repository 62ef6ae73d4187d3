"""What a file is, told by its name alone: a picture, a text beside one, somebody's bookkeeping, a thumbnail."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

# Endings of pictures that are decoded: of several pictures of one generation, one of these is taken first.
DECODED = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".avif", ".avifs"}
)
# What no decoder reads becomes an error row: it was a generation all the same.
PICTURES = DECODED | {
    ".jxl", ".heic", ".heif", ".hif", ".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".qoi", ".tga", ".ppm", ".pgm", ".pnm",
    ".psd", ".exr", ".hdr", ".ico", ".svg",
}  # fmt: skip
# A picture that ends like the latter, beside one of the same name that ends like the former, is a copy of it.
WHOLE, COPIES = frozenset({".png", ".webp", ".avif"}), frozenset({".jpg", ".jpeg"})
# Endings of texts that may hold a picture's prompt, the first that does first.
TEXTS = (".txt", ".caption", ".json")
TABLES = frozenset({".parquet", ".pq"})
ARROW = frozenset({".arrow", ".feather", ".ipc"})
RECORDS = frozenset({".tfrecord", ".tfrecords"})
TARS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_BOOKKEEPING = re.compile(
    r"_SUCCESS|_committed_.*|_started_.*|_(common_)?metadata|.*\.crc|.*\.md|licen[cs]e(\..*)?|.*\.lock|.*\.log|"
    r"thumbs\.db|desktop\.ini|\.ds_store|\.gitattributes|\.gitignore|(dataset_info|state|dataset_dict)\.json|"
    r".*_stats\.json|cache-.*\.arrow",
    re.IGNORECASE,
)
# Directories of table formats and file systems: what is in them is never data.
_LOGS = frozenset({"_delta_log", ".hoodie", "__macosx", ".git", ".ipynb_checkpoints", "@eadir"})
_THUMBNAILS = re.compile(r"thumb(nail)?s?|.*[-_ .]thumb(nail)?s?|previews?", re.IGNORECASE)
_GRIDS = re.compile(r"grids?|.*[-_]grids?", re.IGNORECASE)
# Names are often prompts ("thumbs up", "city grid"): only what tools write counts.
_THUMBNAIL = re.compile(
    r"thumb(nail)?s?|thumb(nail)?[-_.]\S*|.*[-_.]thumb(nail)?(_?\d+(x\d+)?)?|comfyui_temp_.*|.*\.swarmpreview",
    re.IGNORECASE,
)
# By AUTOMATIC1111, SD.Next and ADetailer: "mask" ends names of pictures of masks, too, unless they are numbered so.
_STAGE = re.compile(
    r".*-before-(highres-fix|face-restoration|color-correction|hires|refiner|detailer|restore)|"
    r".*-ad-(before|preview)(-\d+[a-z]{2})?|\d{5}-.*-mask(-composite)?",
    re.IGNORECASE,
)
# By AUTOMATIC1111, SD.Next (since 2025 "inputs") and ControlNet.
_INPUTS = frozenset({"init-images", "inputs", "detected_maps"})
_INPUT = re.compile(r".*-init-image", re.IGNORECASE)
# By AUTOMATIC1111 (upscales) and SwarmUI (copies of what somebody starred).
_AGAIN = frozenset({"extras-images", "starred"})
# Names that others use, too, count beside folders of the same tool: what AUTOMATIC1111 (and on Colab) and SD.Next save
# by hand or upscale, and what ComfyUI previews or was given. (end of the path, any of these beside its first folder)
_SAMPLES = ("text", "image", "control", "txt2img-images", "img2img-images")
_AGAIN_BESIDE = (
    (("save",), _SAMPLES),
    (("saved",), _SAMPLES),
    (("extras",), _SAMPLES),
    (("log", "images"), ("outputs",)),
    (("temp",), ("output",)),
    (("input",), ("output",)),
)
AGAIN = "a copy, upscale or preview of a generation, by its folder's name"
_GRID = re.compile(
    r"grid|(grid|xyz?_grid|prompt_matrix|contact_?sheet)[-_]?\d.*|(xyz?_grid|prompt_matrix).*", re.IGNORECASE
)


def ending(name: str) -> str:
    """The last ending of a file name, lower case, with its dot; empty without one."""
    stem, dot, last = name.rpartition(".")
    return f".{last.lower()}" if dot and (stem or f".{last.lower()}" in PICTURES) else ""


def is_tar(name: str) -> bool:
    """Whether a file name is a tar's, compressed or not."""
    return name.lower().endswith(TARS)


def bookkeeping(parts: Sequence[str]) -> str | None:
    """Why a file with this relative path is nobody's data; None if it may be."""
    for part in parts[:-1]:
        if part.lower() in _LOGS:
            return f"in {part.lower()}: bookkeeping"
    if _BOOKKEEPING.fullmatch(parts[-1]) or parts[-1].startswith("._"):
        return "bookkeeping of the tool that wrote it"
    return None


def hidden(parts: Sequence[str]) -> bool:
    """Whether a relative path is hidden as data systems hide: a name in it begins with a dot or an underscore."""
    return any(part.startswith((".", "_")) and part.lower() not in PICTURES for part in parts)


def derived(parts: Sequence[str]) -> str | None:
    """Why a picture with this path below the input is no generation: a thumbnail, stage, copy, input; None if it is."""
    stem = parts[-1].rpartition(".")[0] or parts[-1]
    if any(_THUMBNAILS.fullmatch(part) for part in parts[:-1]) or _THUMBNAIL.fullmatch(stem):
        return "a thumbnail or preview, by its name"
    if any(_GRIDS.fullmatch(part) for part in parts[:-1]) or _GRID.fullmatch(stem):
        return "a grid of pictures, by its name"
    if _STAGE.fullmatch(stem):
        return "a stage of a generation, by its name"
    if any(part.lower() in _INPUTS for part in parts[:-1]) or _INPUT.fullmatch(stem):
        return "what a generation was given, by its name"
    if any(part.lower() in _AGAIN for part in parts[:-1]):
        return AGAIN
    return None


def again(folders: Iterable[Sequence[str]]) -> frozenset[tuple[str, ...]]:
    """Of folders below an input, those that hold generations again beside the folders of the tool that wrote them."""
    there = {tuple(folder)[:depth] for folder in folders for depth in range(1, len(folder) + 1)}
    names = {tuple(map(str.lower, folder)) for folder in there}
    return frozenset(
        folder
        for folder in there
        for end, beside in _AGAIN_BESIDE
        if tuple(map(str.lower, folder[-len(end) :])) == end
        and any((*map(str.lower, folder[: -len(end)]), name) in names for name in beside)
    )


def is_below(path: str, root: str) -> bool:
    """Whether a real path is a real directory or below it."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
