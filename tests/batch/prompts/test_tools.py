"""Law 6 with pictures whose texts the common tools wrote."""

import functools
import http.server
import shutil
import subprocess
import threading

import pytest
from PIL import Image

from attributary.batch.picture_text import picture_texts
from attributary.batch.prompts import of_picture
from attributary.errors import InputError

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


@pytest.fixture
def downloads(tmp_path, picture):
    """A CSV of six addresses, of which one is not there and one is no picture."""
    (tmp_path / "www").mkdir()
    for number in (0, 1, 3, 5):
        (tmp_path / "www" / f"{number}.jpg").write_bytes(picture(number))
    (tmp_path / "www" / "4.jpg").write_text("<html>no picture")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        lines = [
            f"http://127.0.0.1:{server.server_port}/{number}.jpg,caption {number}" for number in range(6)
        ]
        table = tmp_path / "addresses.csv"
        table.write_text("\n".join(["url,caption", *lines]) + "\n")
        yield table
        server.shutdown()


@pytest.mark.parametrize("form", ["files", "webdataset", "parquet", "tfrecord", "dummy"])
def test_img2dataset(tmp_path, score_log, downloads, form):
    """Every output format of the real tool: four pictures with their captions, two downloads accounted for."""
    if shutil.which("img2dataset") is None:
        pytest.skip("needs img2dataset on the path")
    made = tmp_path / "made"
    subprocess.run(
        ["img2dataset", "--url_list", str(downloads), "--input_format", "csv", "--url_col", "url",
         "--caption_col", "caption", "--output_format", form, "--output_folder", str(made), "--image_size", "64",
         "--processes_count", "1", "--thread_count", "2", "--timeout", "5"],
        check=True, capture_output=True,
    )  # fmt: skip
    if form == "tfrecord" and not list(made.glob("*.tfrecord")):
        pytest.skip("img2dataset writes no tfrecord without tensorflow and tensorflow-io")
    if form == "dummy":  # It keeps no picture at all.
        with pytest.raises(InputError, match="no picture"):
            score_log(made, tmp_path / "run")
        return
    rows, summary = score_log(made, tmp_path / "run")
    read = [row["prompt_used"] for row in rows if row["error_code"] is None]
    assert sorted(read) == [f"caption {number}" for number in (0, 1, 3, 5)]
    failed = [row["log_error_message"] for row in rows if row["error_code"] is not None]
    assert len(failed) + sum(summary["skipped"].values()) == 2
    assert all(failed), "a failed download says why it failed"
