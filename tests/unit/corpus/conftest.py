"""A small synthetic corpus, built once, and encoded pictures to feed to sources."""

import io
from pathlib import Path

import pytest
from PIL import Image

from attributary_train.corpus import Corpus
from tests.support.opt_outs import picture
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


@pytest.fixture
def folder(tmp_path):
    """Function: {path below the parent: text} -> a folder of pictures a/0.png and b/1.jpg with these files."""

    def write(files):
        pictures = tmp_path / "site" / "pictures"
        for name in ("a", "b"):
            (pictures / name).mkdir(parents=True, exist_ok=True)
        (pictures / "a" / "0.png").write_bytes(picture())
        (pictures / "b" / "1 x.jpg").write_bytes(picture("JPEG"))
        for name, text in files.items():
            path = tmp_path / "site" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return pictures

    return write
