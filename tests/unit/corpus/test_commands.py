"""The command line: what a person sees."""

import resource

import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner
from PIL import Image

from attributary_train.cli import main
from attributary_train.corpus import Corpus


def run(*arguments):
    return CliRunner().invoke(main, ["corpus", *map(str, arguments)])


def test_build_from_a_folder_and_show(tmp_path, pictures):
    (tmp_path / "captions.csv").write_text("file,caption,creator\nstar.png,star,Ada\nbroken.png,b,Ada\n")
    own = ("--folder", pictures, "--captions", tmp_path / "captions.csv", "--workers", 1)
    done = run("build", "--out", tmp_path / "out", "--cache", tmp_path / "cache", *own)
    assert done.exit_code == 0, done.output
    assert "1 items, 1 creators" in done.output
    assert "my-pictures/broken.png: not a readable image" in done.output
    assert len(Corpus.open(tmp_path / "out")) == 1


def test_show_writes_contact_sheets(shapes, tmp_path):
    done = run("show", shapes.root, "--sheet", tmp_path / "sheet.png", "--groups", tmp_path / "groups.png")
    assert done.exit_code == 0, done.output
    assert "10  Ada Sample" in done.output
    assert "40  CC0-1.0" in done.output
    for name in ("sheet.png", "groups.png"):
        with Image.open(tmp_path / name) as sheet:
            assert sheet.width > 100


def test_errors_are_one_line(tmp_path, pictures, shapes):
    cases = {
        ("show", tmp_path): "not a finished corpus directory",
        ("build", "--out", tmp_path / "o", "--source", "nonsense"): "no such source: nonsense",
        ("build", "--out", tmp_path / "o", "--folder", pictures): "--folder and --captions go together",
        ("build", "--out", tmp_path / "o", "--webdataset", tmp_path / "*.tar"): "no shard matches",
        ("build", "--out", tmp_path / "o", "--workers", 0): "workers: must be at least 1",
        ("show", shapes.root, "--sheet", tmp_path / "sheet.nonsense"): "cannot be written",
    }
    for arguments, message in cases.items():
        done = run(*arguments)
        assert done.exit_code == 1, (arguments, done.output)
        assert message in done.output
        assert "Traceback" not in done.output


def test_groups_are_listed_without_importing_them():
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert "corpus" in done.output
    assert CliRunner().invoke(main, ["nonsense"]).exit_code == 2


def test_only_some_items(tmp_path, pictures):
    (tmp_path / "captions.csv").write_text("file,caption\nstar.png,star\nsub/disc.jpg,disc\n")
    own = ("--folder", pictures, "--captions", tmp_path / "captions.csv", "--workers", 1)
    assert run("build", "--out", tmp_path / "all", "--cache", tmp_path / "cache", *own).exit_code == 0
    whole = list(Corpus.open(tmp_path / "all"))
    table = tmp_path / "some.parquet"
    pq.write_table(pa.table({"id": [whole[1].id]}), table)
    done = run("build", "--out", tmp_path / "some", "--cache", tmp_path / "cache", *own, "--only", table)
    assert done.exit_code == 0, done.output
    some = list(Corpus.open(tmp_path / "some"))
    assert [(item.id, item.sha256) for item in some] == [(whole[1].id, whole[1].sha256)]
    table.write_text("nothing")
    failed = run("build", "--out", tmp_path / "no", "--cache", tmp_path / "cache", *own, "--only", table)
    assert failed.exit_code == 1 and "holds no ids" in failed.output


def test_a_full_disk_is_one_line(tmp_path, pictures):
    (tmp_path / "captions.csv").write_text("file,caption,creator\nstar.png,star,Ada\n")
    own = ("--folder", pictures, "--captions", tmp_path / "captions.csv", "--workers", 1)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        done = run("build", "--out", tmp_path / "out", "--cache", tmp_path / "cache", *own)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert done.exit_code == 1
    assert "File too large" in done.output
    assert "Traceback" not in done.output
