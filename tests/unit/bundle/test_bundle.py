"""A bundle that was changed, cut or put together from strangers is refused, and the error names the file."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.attribution.open import open_engine
from attributary.building import build_bundle
from attributary.bundle.bundle import REQUIRED, Bundle
from attributary.bundle.files import new_directory, sha256
from attributary.bundle.items import ItemTable
from attributary.bundle.manifest import MANIFEST, Manifest
from attributary.errors import BundleError, InvalidArgumentError


@pytest.fixture
def copied(tiny_bundle_dir, tmp_path):
    target = tmp_path / "bundle"
    shutil.copytree(tiny_bundle_dir, target)
    return target


def rewrite_manifest(directory, **changes):
    """Change entries and make hashes and id right again, as somebody who swaps parts by hand would."""
    raw = json.loads((directory / MANIFEST).read_text())
    for path, value in changes.items():
        place = raw
        *parents, last = path.split("__")
        for parent in parents:
            place = place[parent]
        place[last] = value
    raw["files"] = {name: sha256(directory / name) for name in raw["files"]}
    # As its journal is another one: that of a bundle from before there were any.
    del raw["bundle_id"], raw["delta"]
    from attributary.bundle.parse import parse

    parse(Manifest, raw).write(directory)


def test_opens_and_describes_itself(tiny_bundle_dir):
    bundle = Bundle.open(tiny_bundle_dir)
    assert len(bundle.items) == bundle.manifest.item_count == 300
    assert bundle.manifest.creator_count == 4
    assert bundle.vectors.dtype == np.float16
    assert set(REQUIRED) <= set(bundle.manifest.files)
    assert bundle.manifest.bundle_id == json.loads((tiny_bundle_dir / MANIFEST).read_text())["bundle_id"]


@pytest.mark.parametrize("name", REQUIRED)
def test_flipped_byte_is_refused_by_name(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(BundleError, match=name) as caught:
        Bundle.open(copied)
    assert caught.value.file == name


@pytest.mark.parametrize("name", [*REQUIRED, MANIFEST])
def test_missing_file_is_refused_by_name(copied, name):
    (copied / name).unlink()
    with pytest.raises(BundleError) as caught:
        Bundle.open(copied)
    assert caught.value.file == name


@pytest.mark.parametrize("name", REQUIRED)
def test_truncated_file_is_refused_even_without_hashes(copied, name):
    if name == "tokenizer.json":
        pytest.skip("read by the engine, not by Bundle.open")
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[: len(data) // 3])
    with pytest.raises(BundleError) as caught:
        engine = open_engine(copied, verify=False)
        engine.embed([])
    assert caught.value.file == name


def test_unknown_schema_version_is_refused(copied):
    raw = json.loads((copied / MANIFEST).read_text())
    raw["schema_version"] = 99
    (copied / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=r"manifest.json: schema_version is 99, this build reads 1"):
        Bundle.open(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, r"calibration.image.temperature 0.0, must be above 0"),
        ({"temperature": float("nan")}, "temperature nan, must be"),
        ({"background": float("inf")}, "background inf, must be"),
        ({"diffuse_floor": 1.0}, "diffuse_floor 1.0, must be"),
        ({"ood_margin": -0.1}, "ood_margin -0.1, must be"),
        ({"reach": -1}, "reach -1, must be from 0"),
        ({"reach": 2.5}, "reach must be int"),
        ({"reach_cut": 1.1}, "reach_cut 1.1, must be"),
        ({"reach_cut": -0.1}, "reach_cut -0.1, must be"),
        ({"reach_null": 0.0}, "reach_null 0.0, must be"),
        ({"reach_null": float("inf")}, "reach_null inf, must be"),
        ({"interval": [[0.1, 0.5, 0.2]]}, "interval must rise"),
        ({"interval": [[0.2, 0.1, 0.3], [0.1, 0.1, 0.3]]}, "interval must rise"),
        ({"interval": [[0.1, 0.2]]}, "rows of share, low and high"),
        ({"interval": [[0.1, 0.2, "x"]]}, "interval must be a list of rows of numbers"),
        ({"interval": "wide"}, "interval must be a list of rows of numbers"),
        ({"fog": 1.0}, "calibration.image.fog is not a known entry"),
    ],
)
def test_a_formula_out_of_range_is_refused_by_name(copied, change, message):
    raw = json.loads((copied / MANIFEST).read_text())
    raw["calibration"]["image"] |= change
    (copied / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=message):
        Bundle.open(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": None}, "index must be an object"),
        ({"item_count": "many"}, "item_count must be int"),
        ({"surprise": 1}, "surprise is not a known entry"),
        ({"version": "other"}, "bundle_id is"),
    ],
)
def test_wrong_manifest_says_what_is_wrong(copied, change, message):
    raw = json.loads((copied / MANIFEST).read_text()) | change
    (copied / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=message):
        Bundle.open(copied)


def test_manifest_that_is_not_json(copied):
    (copied / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(copied)


def test_file_name_that_leaves_the_bundle_is_refused(copied):
    raw = json.loads((copied / MANIFEST).read_text())
    raw["files"]["../stolen"] = "0" * 64
    # As its journal is another one: that of a bundle from before there were any.
    del raw["bundle_id"], raw["delta"]
    from attributary.bundle.parse import parse

    parse(Manifest, raw).write(copied)
    with pytest.raises(BundleError, match="not a plain file name"):
        Bundle.open(copied)


def test_encoder_swapped_for_another_is_refused(copied, tiny, tmp_path):
    other = tiny.write_encoder(tmp_path / "other", seed=1)
    shutil.copyfile(other / "encoder.onnx", copied / "encoder.onnx")
    rewrite_manifest(copied)
    with pytest.raises(
        BundleError, match=r"vectors were made by encoder .* do not belong together"
    ) as caught:
        Bundle.open(copied)
    assert caught.value.file == "encoder.onnx"


def test_vectors_of_another_encoder_are_refused_by_the_golden_queries(copied, tiny, tmp_path):
    # Even somebody who makes the manifest agree with the foreign encoder does not get past the golden queries.
    other = tiny.write_encoder(tmp_path / "other", seed=1)
    shutil.copyfile(other / "encoder.onnx", copied / "encoder.onnx")
    digest = sha256(copied / "encoder.onnx")
    rewrite_manifest(copied, encoder__digest=digest, index__encoder_digest=digest)
    with pytest.raises(BundleError, match=r"disagrees with golden.npz: cosine"):
        open_engine(copied)


def test_index_of_other_vectors_is_refused_by_the_golden_queries(copied):
    vectors = np.load(copied / "vectors.npy")
    np.save(copied / "vectors.npy", vectors[::-1])
    rewrite_manifest(copied)
    with pytest.raises(BundleError, match=r"index.faiss: disagrees with golden.npz"):
        open_engine(copied)


def test_codes_of_another_encoder_are_refused(copied):
    rewrite_manifest(copied, index__encoder_digest="f" * 64)
    with pytest.raises(BundleError, match=r"codes were made by encoder ffffffffffff") as caught:
        Bundle.open(copied)
    assert caught.value.file == "index.faiss"


def test_item_rows_and_vectors_must_match(copied):
    table = pq.read_table(copied / "items.parquet").slice(0, 299)
    pq.write_table(table, copied / "items.parquet")
    rewrite_manifest(copied)
    with pytest.raises(BundleError, match=r"has 299 rows, vectors.npy has 300"):
        Bundle.open(copied)


def test_building_twice_gives_the_same_bundle(tiny_corpus_dir, tiny_encoder_dir, tiny_bundle_dir, tmp_path):
    again = build_bundle(tiny_corpus_dir, tiny_encoder_dir, tmp_path / "again", probes=100, workers=1)
    first = Manifest.read(tiny_bundle_dir)
    differing = [name for name in first.files if first.files[name] != again.manifest.files[name]]
    assert not [name for name in differing if name != "golden.npz"]  # an archive holds its time


def test_existing_bundle_is_kept_unless_forced(tiny_corpus_dir, tiny_encoder_dir, tiny_bundle_dir):
    with pytest.raises(FileExistsError, match="exists"):
        build_bundle(tiny_corpus_dir, tiny_encoder_dir, tiny_bundle_dir)


def test_failed_build_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), new_directory(tmp_path / "out") as scratch:
        (scratch / "part").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_missing_encoder_and_corpus_are_named(tiny_corpus_dir, tiny_encoder_dir, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"encoder.onnx does not exist"):
        build_bundle(tiny_corpus_dir, tmp_path, tmp_path / "out")
    with pytest.raises(InvalidArgumentError, match=r"items.parquet does not exist"):
        build_bundle(tmp_path, tiny_encoder_dir, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("caption"), "column caption is missing"),
        (lambda t: t.set_column(0, "id", pa.array([1, 1])), "column id holds a value twice"),
        (lambda t: t.set_column(0, "id", pa.array([1, None])), "column id holds 1 nulls"),
        (lambda t: t.set_column(0, "id", pa.array(["a", "b"])), "column id must be int64"),
    ],
)
def test_wrong_item_tables_name_the_column(change, message):
    table = pa.table(
        {
            "id": [7, 8],
            "caption": ["a", "b"],
            "creator": ["x", "y"],
            "creator_url": ["", ""],
            "licence": ["MIT", "MIT"],
            "uri": ["", ""],
            "near_dup_group": [0, 0],
        }
    )
    assert ItemTable(table).row_of(8) == 1
    assert ItemTable(table).row_of(9) is None
    assert ItemTable(table).row_of(2**70) is None
    with pytest.raises(BundleError, match=message):
        ItemTable(change(table))


@pytest.mark.parametrize(
    "added",
    [
        {"diffuse_floor": 0.2},
        {"reach": 12},
        {"reach": 12, "reach_cut": 0.7, "reach_null": 40.0},
        {"ood_margin": 0.05},
        {"interval": ((0.1, 0.0, 0.3), (0.2, 0.1, 0.5))},
    ],
)
def test_what_later_formulas_add_is_kept_and_none_changes_no_id(copied, added):
    before = Manifest.read(copied)
    assert not set(added) & set(json.loads((copied / MANIFEST).read_text())["calibration"]["image"])
    calibration = before.calibration
    changed = replace(before, calibration=replace(calibration, image=replace(calibration.image, **added)))
    changed.write(copied)
    assert Manifest.read(copied) == changed and changed.bundle_id != before.bundle_id
    before.write(copied)
    assert Manifest.read(copied) == before
