"""Corpora of a user's folder and of WebDataset shards."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attributary.pictures.formats import FORMATS
from attributary_train.corpus import CorpusError, item_id
from attributary_train.corpus.build import build as build_corpus
from attributary_train.corpus.raster import RenderError, open_raster
from attributary_train.corpus.sources.folder import Folder
from attributary_train.corpus.sources.webdataset import WebDataset
from tests.support.synthetic import draw


def build(tmp_path, source, **options):
    return build_corpus(tmp_path / "out", [source], cache=tmp_path / "cache", workers=1, **options)


def problems(corpus):
    return {problem["where"]: problem["reason"] for problem in corpus.facts["sources"][0]["problems"]}


def test_folder_with_csv(tmp_path, pictures):
    captions = tmp_path / "captions.csv"
    captions.write_text(
        "\ufefffile,caption,creator,licence,keywords\n"
        'star.png,"A red star",Ada,CC0-1.0,red; star\n'
        "sub/disc.jpg,a blue disc,,,\n"
        "broken.png,nothing,Ada,,\nblank.png,white,,,\ngone.png,gone,,,\nstar.png,again,,,\n"
        "../captions.csv,outside,,,\n,nameless,,,\nsub/disc.png,,,,\n",
        encoding="utf-8",
    )
    corpus = build(tmp_path, Folder(pictures, captions))
    star, disc = corpus
    assert star.id == item_id("my-pictures/star.png")
    assert (star.caption, star.creator, star.licence_spdx) == ("A red star", "Ada", "CC0-1.0")
    assert (star.keywords, star.concept_id) == (("red", "star"), "a-red-star")
    assert (disc.creator, disc.licence_spdx, disc.keywords) == ("unknown", "NOASSERTION", ())
    found = problems(corpus)
    broken = found.pop("my-pictures/broken.png")
    assert broken == f"not a readable image: it is not a {FORMATS} picture"
    assert found == {
        "gone.png": "no such file",
        "star.png": "listed twice",
        "../captions.csv": "lies outside the folder",
        "row 8": "no file named",
        "sub/disc.png": "no caption",
        # Not only counted: it is somebody's.
        "my-pictures/blank.png": "blank",
    }
    assert corpus.facts["sources"][0]["skipped"] == {}


def test_a_picture_of_one_colour_is_left_out_whichever_it_is(tmp_path, pictures, encode):
    (pictures / "red.jpg").write_bytes(encode(Image.new("RGB", (90, 50), (240, 20, 30)), "JPEG"))
    captions = tmp_path / "captions.csv"
    captions.write_text("file,caption\nstar.png,a star\nred.jpg,red\n", encoding="utf-8")
    corpus = build(tmp_path, Folder(pictures, captions))
    assert [item.caption for item in corpus] == ["a star"]
    assert problems(corpus) == {"my-pictures/red.jpg": "blank"}


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([0, 0.25, 1.0], None),
        ([0, 63.75, 255.0], None),
        ([0, 16_383.75, 65_535.0], None),
        (np.array([0, 64, 255], np.int32), None),
        (np.array([0, 16_448, 65_535], np.int32), None),
        ([0, 1, 65_536.0], "from 0 to 65536; they may go from 0 to 1, 255 or 65535"),
        ([-0.5, 0, 1.0], "from -0.5 to 1"),
        ([0, 1, np.nan], "from nan to nan"),
        (np.array([0, 1, 2**20], np.int32), "they may go from 0 to 255 or 65535"),
    ],
)
def test_grey_of_32_bits_is_scaled_to_what_it_holds(samples, reason):
    """A TIFF of 0 to 1, as image libraries write it, was left out as blank."""
    grey = np.repeat(np.asarray(samples, getattr(samples, "dtype", np.float32))[None], 3, axis=0)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "TIFF")
    if reason:
        with pytest.raises(RenderError, match=reason):
            open_raster(file.getvalue())
    else:
        assert np.asarray(open_raster(file.getvalue()))[0, :, 0].tolist() == [0, 64, 255]


def test_folder_with_parquet(tmp_path, pictures):
    captions = tmp_path / "captions.parquet"
    rows = {"file": ["star.png"], "caption": ["star"], "keywords": [["a", "b", "a"]], "concept_id": ["STAR"]}
    pq.write_table(pa.table(rows), captions)
    (star,) = build(tmp_path, Folder(pictures, captions))
    assert (star.keywords, star.concept_id) == (("a", "b"), "STAR")


@pytest.mark.parametrize(
    "table",
    [
        "\ufefffile;caption;creator\r\nstar.png;a star, red;Ada\r\n",  # Excel, where the comma is a decimal sign
        'sep=;\r\nfile;caption;creator\r\nstar.png;"a star, red";Ada\r\n',
        "file\tcaption\tcreator\r\nstar.png\ta star, red\tAda\r\n",
        'file, caption ,creator\nstar.png,"a star, red",Ada\n',
        '"caption; in words",file,caption,creator\nx,star.png,"a star, red",Ada\n',
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, pictures, table):
    (tmp_path / "captions.csv").write_text(table, encoding="utf-8", newline="")
    (star,) = build(tmp_path, Folder(pictures, tmp_path / "captions.csv"))
    assert (star.caption, star.creator) == ("a star, red", "Ada")


def test_names_that_are_no_names_of_files_are_told(tmp_path, pictures):
    rows = {"file": ["star.png", "a\0b.png", "x" * 5000], "caption": ["a star"] * 3}
    pq.write_table(pa.table(rows), tmp_path / "captions.parquet")
    corpus = build(tmp_path, Folder(pictures, tmp_path / "captions.parquet"))
    assert len(corpus) == 1 and len(problems(corpus)) == 2


@pytest.mark.parametrize("name", ["captions.csv", "captions.parquet"])
def test_missing_caption_column_is_named(tmp_path, pictures, name):
    table = pa.table({"file": ["star.png"], "text": ["star"]})
    if name.endswith("csv"):
        (tmp_path / name).write_text("file,text\nstar.png,star\n")
    else:
        pq.write_table(table, tmp_path / name)
    with pytest.raises(CorpusError, match=r"column missing: caption \(columns found: file, text\)"):
        build(tmp_path, Folder(pictures, tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("captions.txt", b"", r"must be a \.csv or a \.parquet"),
        ("captions.parquet", b"PAR1", "not readable"),
        ("captions.csv", b"file,caption\n\xff\xfe\n", "is not UTF-8; in a spreadsheet choose 'CSV UTF-8'"),
        ("captions.csv", b"file;caption\na.png;red;round\n", 'line 2: 3 fields, .*: "a cat; sitting"'),
        ("captions.csv", b"sep=;\nfile;caption\na.png;red;round\n", "line 3: 3 fields"),
        ("captions.csv", b"", "columns found: none"),
    ],
)
def test_unreadable_captions_are_named(tmp_path, pictures, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=reason):
        build(tmp_path, Folder(pictures, tmp_path / name))


def test_missing_captions_and_folder_are_named(tmp_path, pictures):
    with pytest.raises(CorpusError, match="no such file"):
        build(tmp_path, Folder(pictures, tmp_path / "gone.csv"))
    (tmp_path / "captions.csv").write_text("file,caption\n")
    with pytest.raises(CorpusError, match="no such folder"):
        build(tmp_path, Folder(tmp_path / "gone", tmp_path / "captions.csv"))
    with pytest.raises(CorpusError, match="no usable image"):
        build(tmp_path, Folder(pictures, tmp_path / "captions.csv"))


@pytest.fixture
def shard(tmp_path, encode):
    """Function: name and members (name -> bytes) -> the path of a tar file."""

    def written(name, members):
        path = tmp_path / name
        with tarfile.open(path, "w") as tar:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return written


def test_webdataset_shards(tmp_path, shard, encode):
    star, disc = encode(draw("star", "red", "Ada Sample"), "WEBP"), encode(draw("disc", "blue", "Ben Probe"))
    facts = {"caption": "from json", "creator": "Ada", "license": "MIT", "keywords": ["x"]}
    shard(
        "s-00.tar",
        [("a/0.webp", star), ("a/0.txt", b"a red star\n"), ("a/0.json", json.dumps(facts).encode())],
    )
    shard(
        "s-01.tar",
        [
            ("0.png", disc),
            ("0.seg.png", b"a mask, no picture of the sample"),
            ("0.webp", star),
            ("0.txt", "caf\u00e9".encode("latin-1")),
            ("0.json", json.dumps({"caption": "blue disc"}).encode()),
            ("1.txt", b"no picture"),
            ("2.png", disc),
            ("3.png", b"broken"),
            ("3.txt", b"broken"),
            ("4.json", b"{"),
        ],
    )
    corpus = build(tmp_path, WebDataset(str(tmp_path / "s-{00..01}.tar")))
    first, second = corpus
    assert (first.caption, first.creator, first.licence_spdx) == ("a red star", "Ada", "MIT")
    assert first.id == item_id("s-00/a/0")
    assert (second.caption, second.uri) == ("blue disc", "s-01.tar#0.png")
    found = problems(corpus)
    assert found["s-01.tar#0.webp"] == "a second picture of one sample"
    assert found["s-01.tar#0.txt"] == "not readable: must be UTF-8"
    assert found["s-01.tar#1"] == "no image"
    assert found["s-01.tar#2"] == "no caption"
    assert found["s-01.tar#3.png"].startswith("not a readable image")
    assert found["s-01.tar#4.json"].startswith("not readable")


def test_broken_shard_is_recorded_and_the_next_one_read(tmp_path, shard, encode):
    star = encode(draw("star", "red", "Ada Sample"))
    (tmp_path / "a.tar").write_bytes(b"no tar file")
    shard("b.tar", [("0.png", star), ("0.txt", b"star")])
    corpus = build(tmp_path, WebDataset(str(tmp_path / "*.tar")))
    assert len(corpus) == 1
    assert "cannot be read" in problems(corpus)["a.tar"]


def test_pattern_without_shards(tmp_path):
    with pytest.raises(CorpusError, match="no shard matches"):
        build(tmp_path, WebDataset(str(tmp_path / "{0..3}.tar")))
