"""A folder of one's own pictures: every way in gives one vector, and every item finds itself."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.batch.job import score
from attributary.batch.plan import make_plan
from attributary.batch.run import shard_tables
from attributary.batch.scoring import EngineScorer
from attributary.batch.settings import Settings
from attributary.building import build_bundle
from attributary.bundle.bundle import Bundle
from attributary.bundle.manifest import CROP, MANIFEST, Manifest
from attributary.cli.bundle import bundle_group
from attributary.errors import BundleError
from attributary.pictures import decode

pytest.importorskip("attributary_train.corpus")
from attributary_train.corpus.build import build
from attributary_train.corpus.sources.folder import Folder

# What rounding of stored vectors (float16) may take from the cosine of a vector with itself.
SAME = 0.9999
WORDS = ("a red ellipse", "a blue rectangle", "a green ellipse", "an orange rectangle")


def drawn(number: int, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (width, height), tuple(int(level) for level in rng.integers(0, 256, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        reach = rng.uniform(0.1, 0.5, 2) * min(width, height)
        colour = tuple(int(level) for level in rng.integers(0, 256, 3))
        pen.ellipse((x - reach[0], y - reach[1], x + reach[0], y + reach[1]), fill=colour)
    return image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def files() -> dict[str, bytes]:
    """Every aspect, mode and size that a folder of pictures may hold."""
    made = {
        f"{width}x{height}-{turn}.jpg": encoded(drawn(10 * turn + width, width, height), "JPEG", quality=85)
        for turn in range(4)
        for width, height in ((640, 360), (360, 640), (900, 300), (500, 400), (256, 256))
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    layered = drawn(101, 320, 200).convert("RGBA")
    layered.putalpha(Image.linear_gradient("L").resize(layered.size))
    made |= {
        "alpha.png": encoded(layered, "PNG"),
        "turned.jpg": encoded(drawn(102, 400, 200), "JPEG", exif=exif),
        "palette.png": encoded(drawn(103, 300, 500).quantize(16), "PNG"),
        "grey.png": encoded(drawn(104, 700, 300).convert("L"), "PNG"),
        "sixteen.png": encoded(Image.fromarray(np.linspace(0, 65535, 90000, dtype=np.uint16).reshape(200, 450)), "PNG"),
        "ink.jpg": encoded(drawn(105, 300, 200).convert("CMYK"), "JPEG"),
        "moving.gif": encoded(drawn(106, 200, 100), "GIF", save_all=True, append_images=[drawn(107, 200, 100)]),
        "web.webp": encoded(drawn(108, 410, 290), "WEBP", quality=70),
        "old.bmp": encoded(drawn(109, 90, 210), "BMP"),
        "tiny.png": encoded(drawn(110, 7, 5), "PNG"),
        "strip.png": encoded(drawn(111, 900, 9), "PNG"),
        # More pixels than a corpus once took.
        "huge.jpg": encoded(drawn(112, 7000, 3200), "JPEG", quality=60),
        "print.tiff": encoded(drawn(113, 300, 170), "TIFF"),
    }  # fmt: skip
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pictures, and a table of captions and creators beside them."""
    root = tmp_path_factory.mktemp("own")
    (root / "pictures").mkdir()
    for name, data in files().items():
        (root / "pictures" / name).write_bytes(data)
    with (root / "items.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "caption", "creator"))
        rows.writerows((name, WORDS[at % 4], "ABC"[at % 3]) for at, name in enumerate(files()))
    return root


@pytest.fixture(scope="module")
def corpus(folder):
    return build(
        folder / "corpus",
        [Folder(folder / "pictures", folder / "items.csv")],
        cache=folder / "cache",
        workers=1,
    )


@pytest.fixture(scope="module")
def engine(corpus, folder, tiny_encoder_dir):
    build_bundle(corpus.root, tiny_encoder_dir, folder / "bundle", probes=40, workers=2)
    return open_engine(folder / "bundle")


def names_of(corpus) -> dict[str, int]:
    return {item.uri.split("/", 1)[1]: item.id for item in corpus}


def askable(corpus) -> dict[str, int]:
    """Files that a server takes: all but the TIFF."""
    return {name: number for name, number in names_of(corpus).items() if not name.endswith(".tiff")}


def vector_of(engine, number):
    return np.asarray(engine.bundle.vectors[engine.snapshot.row_of(number)], np.float32)


def test_no_picture_is_left_out(corpus):
    assert set(names_of(corpus)) == set(files())
    assert corpus.facts["sources"][0]["problems"] == []


def test_bytes_and_pixels_have_the_vector_of_their_item(corpus, engine):
    for name, number in askable(corpus).items():
        data = files()[name]
        caption = corpus.item(number).caption
        asked = [
            engine.prepare(Query(image=data, prompt=caption)),
            engine.prepare(Query(pixels=decode(data), prompt=caption)),
        ]
        for vector in engine.embed(asked):
            assert vector @ vector_of(engine, number) >= SAME, name


@pytest.mark.parametrize("prompt", ["", "its own", "another's"])
def test_every_item_finds_itself_first_and_is_no_stranger(corpus, engine, prompt):
    for at, (name, number) in enumerate(askable(corpus).items()):
        caption = corpus.item(number).caption
        words = {"": "", "its own": caption, "another's": WORDS[(WORDS.index(caption) + 1 + at % 3) % 4]}
        answer = engine.attribute(Query(image=files()[name], prompt=words[prompt]), Options(top_k=1))
        assert answer.items[0].id == number, name
        assert not answer.out_of_distribution, name


def test_items_that_are_added_have_the_vector_that_a_build_gives(
    corpus, engine, folder, tiny_corpus_dir, tiny_encoder_dir, tmp_path
):
    by_corpus, by_picture = tmp_path / "by-corpus", tmp_path / "by-picture"
    for out in (by_corpus, by_picture):
        build_bundle(tiny_corpus_dir, tiny_encoder_dir, out, probes=20, limit=30, workers=2)
    runner = CliRunner()
    added = runner.invoke(
        bundle_group, ["add", str(by_corpus), "--corpus", str(corpus.root), "--why", "test"]
    )
    assert added.exit_code == 0, added.output
    for name, number in askable(corpus).items():
        item = corpus.item(number)
        fields = ["--id", str(number), "--caption", item.caption, "--creator", item.creator, "--why", "test"]
        picture = ["--picture", str(folder / "pictures" / name)]
        added = runner.invoke(bundle_group, ["add", str(by_picture), *picture, *fields])
        assert added.exit_code == 0, added.output
    for opened in (open_engine(by_corpus), open_engine(by_picture)):
        for name, number in askable(corpus).items():
            query = Query(image=files()[name], prompt=corpus.item(number).caption)
            first = opened.attribute(query, Options(top_k=1)).items[0]
            assert first.id == number and first.similarity >= SAME, name


def test_a_log_is_scored_with_the_same_vectors(corpus, engine, tmp_path):
    numbers = list(askable(corpus).values())
    table = pa.table(
        {
            "generation_id": [str(number) for number in numbers],
            "image": pa.array([files()[name] for name in askable(corpus)], pa.binary()),
            "prompt": [corpus.item(number).caption for number in numbers],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    settings = Settings(rows_per_shard=16, batch_size=5)
    plan = make_plan([tmp_path / "log.parquet"], settings)
    score(plan, EngineScorer(engine, settings), tmp_path / "run", workers=1)
    rows = [row for part in shard_tables(tmp_path / "run") for row in part.to_pylist()]
    assert [row["items"][0]["id"] for row in rows] == numbers
    assert min(row["items"][0]["similarity"] for row in rows) >= SAME


def test_a_small_copy_stays_near_its_item(corpus, engine):
    """What a corpus kept once, 256 px of a picture, is near the vector of its bytes and not the same."""
    for name, number in askable(corpus).items():
        prompt = corpus.item(number).caption
        small = encoded(corpus.image(number), "PNG")
        vector = engine.embed([engine.prepare(Query(image=small, prompt=prompt))])[0]
        assert vector @ vector_of(engine, number) >= 0.99, name


def test_the_original_keeps_most_of_the_share_whatever_the_prompt(corpus, engine):
    shares = []
    for at, (name, number) in enumerate(askable(corpus).items()):
        other = WORDS[(WORDS.index(corpus.item(number).caption) + 1 + at % 3) % 4]
        answer = engine.attribute(Query(image=files()[name], prompt=other), Options(top_k=1))
        shares.append(answer.items[0].share)
    assert np.median(shares) >= 0.8


def test_a_picture_without_a_source_leaves_most_to_nobody(engine):
    for prompt in ("", WORDS[0]):
        left = [
            engine.attribute(
                Query(image=encoded(drawn(500 + at, 400, 300), "PNG"), prompt=prompt), Options(top_k=1)
            ).diffuse_share
            for at in range(20)
        ]
        assert np.median(left) >= 0.5, prompt


def test_a_corpus_outlives_the_folder_it_came_from(folder, tmp_path):
    captions = tmp_path / "items.csv"
    captions.write_text("file,caption\nalpha.png,a red ellipse\ngrey.png,a blue ellipse\n")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("alpha.png", "grey.png"):
        (pictures / name).write_bytes(files()[name])
    built = build(tmp_path / "out", [Folder(pictures, captions)], cache=tmp_path / "cache", workers=1)
    (pictures / "alpha.png").write_bytes(b"changed in place")
    first = built[0].id
    assert (built.pixels(first) == decode(files()["alpha.png"])).all()
    captions.write_text("file,caption\ngrey.png,a blue ellipse\n")
    build(tmp_path / "out", [Folder(pictures, captions)], cache=tmp_path / "cache", workers=1)
    kept = [path.name for path in (tmp_path / "out" / "originals").rglob("*") if path.is_file()]
    assert len(kept) == 1 and kept[0].endswith(".png")


def test_the_manifest_names_the_one_way_and_an_unknown_one_is_refused(engine, folder, tmp_path):
    manifest = engine.bundle.manifest
    assert manifest.encoder.fit == CROP
    facts = json.loads((folder / "bundle" / MANIFEST).read_text())
    for fit, words in (("pad", "this build knows 'crop'"), (None, "")):
        changed = tmp_path / str(fit)
        changed.mkdir()
        for path in (folder / "bundle").iterdir():
            if path.is_file() and path.name != MANIFEST:
                (changed / path.name).hardlink_to(path)
        told = {**facts, "encoder": {**facts["encoder"], "fit": fit}}
        if fit is None:
            del told["encoder"]["fit"]
        del told["bundle_id"], told["delta"]
        Manifest(**read_parts(told)).write(changed)
        if words:
            with pytest.raises(BundleError, match=words):
                Bundle.open(changed)
        else:
            # As a bundle says of itself that was built before the entry was there.
            assert "fit" not in json.loads((changed / MANIFEST).read_text())["encoder"]
            assert Bundle.open(changed).manifest.encoder.fit == ""


def read_parts(told):
    from attributary.bundle import manifest as parts

    shares = {
        name: parts.ShareCalibration(**told["calibration"][name]) for name in ("image", "image_and_prompt")
    }
    return {
        **told,
        "subject": parts.SubjectEntry(**told["subject"]),
        "encoder": parts.EncoderEntry(**told["encoder"]),
        "index": parts.IndexEntry(**told["index"]),
        "calibration": parts.Calibration(told["calibration"]["method"], **shares),
    }
