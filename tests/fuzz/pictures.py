"""Coverage-guided fuzzing of reading pictures: pixels or the one typed error, no hang. Needs `pip install atheris`.

    python tests/fuzz/pictures.py -max_total_time=600 -timeout=5 [CORPUS]

Without a corpus it begins with small pictures of every format. What libFuzzer finds is written to the current folder.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["attributary.pictures", "PIL"]):
    from attributary.errors import InvalidArgumentError
    from attributary.pictures import decode

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.picture_files import encoded, photo

MAX_PIXELS = 100_000


def one(data: bytes) -> None:
    """Decode one input."""
    try:
        pixels = decode(data, max_pixels=MAX_PIXELS)
    except InvalidArgumentError as error:
        assert error.field == "query.image"
        return
    assert pixels.dtype == "uint8"
    assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS


def seeds() -> str:
    """A folder of small pictures."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-pictures-"))
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"):
        (folder / kind).write_bytes(encoded(photo(9, 7), kind))
    (folder / "progressive").write_bytes(encoded(photo(9, 7), "JPEG", progressive=True))
    return str(folder)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    given = any(not argument.startswith("-") for argument in sys.argv[1:])
    atheris.Setup([*sys.argv, *([] if given else [seeds()])], one)
    atheris.Fuzz()
