"""From any picture to 256 x 256 RGB over white."""

import numpy as np
import pytest
from PIL import Image

from attributary_train.corpus import raster
from attributary_train.corpus.raster import RenderError, cached_png, render, render_cached

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}">{body}</svg>'
RED = '<rect width="1000" height="1000" fill="red"/>'


def test_svg_fits_the_square_over_white():
    for width, height in ((10, 5), (5, 10), (640, 320)):
        pixels = np.asarray(render(SVG.format(w=width, h=height, body=RED).encode(), svg=True))
        red = (pixels == (255, 0, 0)).all(-1)
        wide, tall = red.any(0).sum(), red.any(1).sum()
        assert (wide, tall) == ((256, 128) if width > height else (128, 256))
        assert (pixels[~red] == 255).all()


def test_alpha_lies_over_white(encode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 128), (0, 0, 4, 8))
    pixels = np.asarray(render(encode(image)))
    assert abs(int(pixels[128, 60, 0]) - 127) <= 1
    assert (pixels[:, 200:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "LA", "1", "CMYK"])
def test_other_modes_keep_their_look(encode, star, mode):
    converted = star.convert("L").convert(mode) if mode != "CMYK" else star.convert("CMYK")
    pixels = np.asarray(render(encode(converted, "TIFF" if mode == "CMYK" else "PNG")), dtype=int)
    wanted = np.asarray(star.convert("L").convert("RGB") if mode != "CMYK" else star, dtype=int)
    assert np.median(np.abs(pixels - wanted)) <= 1


def test_sixteen_bit_is_scaled_not_clipped(encode):
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16)[None].repeat(256, 0)
    pixels = np.asarray(render(encode(Image.fromarray(ramp))))
    assert abs(int(pixels[0, 128, 0]) - 128) <= 1
    assert pixels[0, 0, 0] == 0


def test_exif_rotation_is_applied(encode):
    image = Image.new("RGB", (40, 20), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6
    blue = (np.asarray(render(encode(image, "JPEG", exif=exif)))[..., 0] < 128).sum(axis=(0, 1))
    tall = (np.asarray(render(encode(image, "JPEG", exif=exif)))[..., 0] < 128).any(1).sum()
    assert tall == 256
    assert blue < 256 * 256


def test_first_frame_counts(encode, star):
    frames = encode(star, "GIF", save_all=True, append_images=[Image.new("RGB", star.size, "black")])
    assert np.asarray(render(frames)).mean() > 128


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no picture", "not a readable image"),
        (b"<svg", "not a drawable SVG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='0' height='0'/>", "not a drawable SVG"),
        (SVG.format(w=9, h=9, body="").encode(), "blank"),
    ],
)
def test_bad_pictures_say_why(data, reason):
    with pytest.raises(RenderError, match=reason):
        render(data, svg=True)


def test_truncated_picture_is_refused(encode, star):
    data = encode(star)
    with pytest.raises(RenderError, match="not a readable image"):
        render(data[: len(data) // 2])


def test_huge_picture_is_refused_before_decoding(encode, monkeypatch):
    monkeypatch.setattr(raster, "MAX_SOURCE_PIXELS", 100)
    with pytest.raises(RenderError, match="more than 100 pixels"):
        render(encode(Image.new("RGB", (11, 10))))


def test_cache_is_used_and_repaired(encode, star, tmp_path, monkeypatch):
    data = encode(star)
    first = render_cached(data, False, tmp_path)
    assert first.problem == ""
    path = cached_png(tmp_path, first.digest)
    monkeypatch.setattr(raster, "render", lambda *_: pytest.fail("rendered again"))
    again = render_cached(data, False, tmp_path)
    assert again.sha256 == first.sha256
    np.testing.assert_array_equal(again.embedding, first.embedding)
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:50])
    assert render_cached(data, False, tmp_path).sha256 == first.sha256
    assert list(tmp_path.rglob(".part-*")) == []


def test_missing_file_is_a_problem_not_a_crash(tmp_path):
    assert "cannot be read" in render_cached(tmp_path / "gone.png", False, tmp_path).problem


def test_svg_of_strangers_is_refused_even_when_cached(tmp_path, encode, star):
    # An SVG may name any image of this machine in an href and so draw it into the corpus.
    (tmp_path / "secret.png").write_bytes(encode(star))
    body = f'<image href="{tmp_path}/secret.png" width="256" height="256"/>'
    data = SVG.format(w=256, h=128, body=RED + body).encode()
    assert render_cached(data, True, tmp_path).problem == ""
    assert "SVG is taken from pinned packages only" in render_cached(data, False, tmp_path).problem
    with pytest.raises(RenderError, match="not a readable image"):
        render(data)
