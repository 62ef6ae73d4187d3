"""A bundle from embeddings that exist: every layout gives the bundle that pictures give, and strangers are refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from attributary.attribution.open import open_engine
from attributary.attribution.types import Options, Query
from attributary.building import build_from_embeddings
from attributary.building.embeddings import open_embeddings
from attributary.building.from_embeddings import gather
from attributary.bundle.bundle import Bundle
from attributary.cli.bundle import bundle_group
from attributary.errors import InvalidArgumentError


@pytest.fixture(scope="module")
def made(tiny_bundle_dir, tiny_corpus_dir):
    """The vectors and items of the bundle that was built from pictures."""
    bundle = Bundle.open(tiny_bundle_dir)
    return np.asarray(bundle.vectors, np.float32), pq.read_table(tiny_corpus_dir / "items.parquet")


def one_file(folder, vectors, table):
    np.save(folder / "v.npy", vectors.astype(np.float16))
    pq.write_table(table, folder / "i.parquet")
    return folder / "v.npy", folder / "i.parquet"


def clip_retrieval(folder, vectors, table):
    """Twelve parts, so that the order of names is not the order of numbers; its own names of columns."""
    (folder / "img_emb").mkdir()
    (folder / "metadata").mkdir()
    table = table.rename_columns({"file": "image_path", "uri": "url"})
    for number, part in enumerate(np.array_split(np.arange(len(vectors)), 12)):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", 3 * vectors[part])
        pq.write_table(table.take(part), folder / "metadata" / f"metadata_{number}.parquet")
    return folder, None


def column(folder, vectors, table):
    table = table.append_column("embedding", pa.array(vectors.tolist(), pa.list_(pa.float64())))
    for number, part in enumerate(np.array_split(np.arange(len(vectors)), 3)):
        pq.write_table(table.take(part), folder / f"part-{number}.parquet")
    (folder / "_SUCCESS.parquet").write_bytes(b"")
    return folder, None


def fixed(folder, vectors, table):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(table.append_column("embedding", lists), folder / "all.parquet")
    return folder / "all.parquet", None


@pytest.mark.parametrize("layout", [one_file, clip_retrieval, column, fixed])
def test_every_layout_gives_the_bundle_that_pictures_give(
    made, tiny_encoder_dir, tiny_corpus_dir, tiny_bundle_dir, tmp_path, layout
):
    given = tmp_path / "given"
    given.mkdir()
    embeddings, items = layout(given, *made)
    out = tmp_path / "bundle"
    build_from_embeddings(embeddings, tiny_encoder_dir, tiny_corpus_dir, out, items=items)
    built, wanted = open_engine(out), open_engine(tiny_bundle_dir)
    np.testing.assert_allclose(built.bundle.vectors, wanted.bundle.vectors, atol=2e-3)
    assert [built.bundle.items.record(row) for row in range(300)] == [
        wanted.bundle.items.record(row) for row in range(300)
    ]
    picture = (tiny_corpus_dir / "pictures/7.png").read_bytes()
    first = built.attribute(Query(image=picture, prompt="a blue rectangle"), Options(top_k=1)).items[0]
    assert first.id == 1007 and first.similarity > 0.999
    assert built.bundle.manifest.notes["vectors_with_caption"] == "yes"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "given"]


def test_vectors_of_another_encoder_are_refused(made, tiny, tiny_corpus_dir, tmp_path):
    embeddings, items = one_file(tmp_path, *made)
    rng = np.random.default_rng(0)
    np.save(embeddings, rng.standard_normal(made[0].shape).astype(np.float32))
    with pytest.raises(InvalidArgumentError, match=r"not made by this encoder: .* median cosine"):
        build_from_embeddings(
            embeddings, tiny.write_encoder(tmp_path / "e"), tiny_corpus_dir, tmp_path / "b", items=items
        )
    assert not (tmp_path / "b").exists()


def spoil_nan(vectors):
    vectors[3, 1] = np.nan


def spoil_zero(vectors):
    vectors[3] = 0


@pytest.mark.parametrize("spoil", [spoil_nan, spoil_zero])
def test_a_row_that_has_no_direction_is_named(made, tmp_path, spoil):
    vectors = made[0].copy()
    spoil(vectors)
    embeddings, items = one_file(tmp_path, vectors, made[1])
    with pytest.raises(InvalidArgumentError, match=r"v\.npy: row 3 "):
        list(open_embeddings(embeddings, items).blocks())


def test_what_does_not_agree_is_named(made, tmp_path):
    vectors, table = made
    embeddings, items = one_file(tmp_path, vectors[:-1], table)
    with pytest.raises(InvalidArgumentError, match="299 vectors, the tables describe 300"):
        open_embeddings(embeddings, items)
    with pytest.raises(InvalidArgumentError, match="says nothing of its items"):
        open_embeddings(embeddings)
    with pytest.raises(InvalidArgumentError, match="no column 'embedding'"):
        open_embeddings(items)
    np.save(embeddings, np.zeros(300, np.int64))
    with pytest.raises(InvalidArgumentError, match="must hold floats"):
        open_embeddings(embeddings, items)
    embeddings.write_bytes(b"not an array")
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        open_embeddings(embeddings, items)
    ragged = table.append_column("embedding", pa.array([[1.0, 2.0]] * 299 + [[1.0]]))
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    with pytest.raises(InvalidArgumentError, match="lists of other lengths than 2"):
        list(open_embeddings(tmp_path / "ragged.parquet").blocks())


def test_a_build_that_was_stopped_reads_only_the_rest(made, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    embeddings, _ = clip_retrieval(given, *made)
    path = tmp_path / "partial" / "vectors.npy"

    def stop(_phase, done, _total):
        if done > 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(open_embeddings(embeddings), path, stop)
    read = []
    vectors = gather(open_embeddings(embeddings), path, lambda _phase, done, _total: read.append(done))
    assert read[0] > 175 and read[-1] == 300
    np.testing.assert_allclose(vectors, made[0], atol=2e-3)

    # Another input is not gone on with.
    np.save(given / "img_emb" / "img_emb_0.npy", -made[0][:25])
    again = gather(open_embeddings(embeddings), path, lambda *_: None)
    np.testing.assert_allclose(again[:25], -made[0][:25], atol=2e-3)


def test_items_without_a_creator_are_refused_and_without_an_id_numbered(
    made, tiny_encoder_dir, tiny_corpus_dir, tmp_path
):
    vectors, table = made
    embeddings, items = one_file(tmp_path, vectors, table.drop_columns(["creator"]))
    with pytest.raises(InvalidArgumentError, match="no column creator"):
        build_from_embeddings(embeddings, tiny_encoder_dir, tiny_corpus_dir, tmp_path / "b", items=items)
    pq.write_table(table.drop_columns(["id"]), items)
    build_from_embeddings(embeddings, tiny_encoder_dir, tiny_corpus_dir, tmp_path / "b", items=items)
    assert Bundle.open(tmp_path / "b").items.id_of(299) == 299


def test_the_command_tells_the_size_first_and_pictures_that_are_missing(
    made, tiny_encoder_dir, tiny_corpus_dir, tmp_path
):
    embeddings, items = one_file(tmp_path, *made)
    command = ["build", "--embeddings", embeddings, "--items", items, "--encoder", tiny_encoder_dir]
    command = [str(part) for part in [*command, "--out", tmp_path / "b"]]
    told = CliRunner().invoke(bundle_group, command)
    assert told.exit_code == 2 and "--pictures" in told.output
    done = CliRunner().invoke(bundle_group, [*command, "--pictures", str(tmp_path)])
    assert isinstance(done.exception, InvalidArgumentError)
    assert "0 of the items' files are below" in str(done.exception)
    done = CliRunner().invoke(bundle_group, [*command, "--pictures", str(tiny_corpus_dir)])
    assert done.exit_code == 0, done.output
    assert "300 items of 209 dimensions" in done.output
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["item_count"] == 300


@pytest.mark.parametrize("name", ["caption", "file"])
def test_a_column_of_another_type_is_named(made, tiny_encoder_dir, tiny_corpus_dir, tmp_path, name):
    vectors, table = made
    lists = pa.array([[1]] * len(table))
    table = table.set_column(table.column_names.index(name), name, lists)
    embeddings, items = one_file(tmp_path, vectors, table)
    with pytest.raises(InvalidArgumentError, match=f"column {name} must be text, is list"):
        build_from_embeddings(embeddings, tiny_encoder_dir, tiny_corpus_dir, tmp_path / "b", items=items)


def test_paths_of_pictures_may_be_bytes(made, tiny_encoder_dir, tiny_corpus_dir, tmp_path):
    vectors, table = made
    table = table.set_column(table.column_names.index("file"), "file", table["file"].cast(pa.binary()))
    embeddings, items = one_file(tmp_path, vectors, table)
    build_from_embeddings(embeddings, tiny_encoder_dir, tiny_corpus_dir, tmp_path / "b", items=items)
    assert len(Bundle.open(tmp_path / "b").items) == len(table)
