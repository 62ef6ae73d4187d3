"""Law 6 with pictures whose texts the common tools wrote."""

import shutil
import subprocess

import pytest
from PIL import Image

from attributary.batch.picture_text import picture_texts
from attributary.batch.prompts import of_picture

TEXT = "a (red:1.3) cat, sharp\nNegative prompt: dog\nSteps: 20, Sampler: Euler"


def magick():
    """ImageMagick's command; the test is skipped where it is not."""
    for name in ("magick", "convert"):
        path = shutil.which(name)
        told = subprocess.run([path, "-version"], capture_output=True, check=False).stdout if path else b""
        if told.startswith(b"Version: ImageMagick"):
            return path
    pytest.skip("needs ImageMagick")


@pytest.mark.parametrize("form", ["jpg", "webp", "png"])
def test_exiftool(tmp_path, form):
    if shutil.which("exiftool") is None:
        pytest.skip("needs exiftool")
    path = tmp_path / f"a.{form}"
    Image.new("RGB", (8, 8)).save(path)
    subprocess.run(["exiftool", "-q", "-overwrite_original", f"-UserComment={TEXT}", str(path)], check=True)
    found = of_picture(picture_texts(path.read_bytes()))
    assert (found.text, found.source) == ("a red cat, sharp", "a1111")


def test_imagemagick(tmp_path):
    path = tmp_path / "a.png"
    subprocess.run([magick(), "-size", "8x8", "xc:red", "-set", "parameters", TEXT, str(path)], check=True)
    assert of_picture(picture_texts(path.read_bytes())).text == "a red cat, sharp"
