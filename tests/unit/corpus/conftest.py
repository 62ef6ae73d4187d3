"""A small synthetic corpus, built once, and encoded pictures to feed to sources."""

import io
from pathlib import Path

import pytest
from PIL import Image

from attributary_train.corpus import Corpus
from tests.support.synthetic import draw, synthetic_corpus


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Corpus:
    """Forty items: disc and ring in five colours by four creators."""
    return synthetic_corpus(tmp_path_factory.mktemp("shapes") / "corpus", 40)


@pytest.fixture
def encode():
    """Function: an image and a format -> bytes."""

    def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    return encoded


@pytest.fixture
def star() -> Image.Image:
    return draw("star", "red", "Ada Sample")


@pytest.fixture
def pictures(tmp_path: Path, encode) -> Path:
    """A folder with two good pictures, a text file that says it is a PNG, and a blank one."""
    folder = tmp_path / "My Pictures"
    (folder / "sub").mkdir(parents=True)
    (folder / "star.png").write_bytes(encode(draw("star", "red", "Ada Sample")))
    (folder / "sub" / "disc.jpg").write_bytes(encode(draw("disc", "blue", "Ben Probe"), "JPEG"))
    (folder / "broken.png").write_text("no picture")
    (folder / "blank.png").write_bytes(encode(Image.new("RGB", (50, 50), "white")))
    return folder
