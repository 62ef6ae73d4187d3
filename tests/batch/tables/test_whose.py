"""Law 8: tables never shift. Whose a picture is follows from what a cell says, however column and cell are written."""

import io
import json
import tarfile
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from attributary_train.cli import main
from attributary_train.corpus.build import build
from attributary_train.corpus.sources.folder import Folder
from attributary_train.corpus.sources.webdataset import WebDataset
from attributary_train.own.plan import make_plan
from attributary_train.own.road import Request
from tests.support.messy import picture

JOSE = "Jos\u00e9"


@pytest.fixture
def folder(tmp_path):
    """A folder of six pictures."""
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for at in range(6):
        picture(at).save(root / f"{at}.png")
    return root


def built(tmp_path, folder, table):
    """The corpus of a CSV text or an Arrow table."""
    path = tmp_path / ("items.csv" if isinstance(table, str) else "items.parquet")
    if isinstance(table, str):
        path.write_text(table, encoding="utf-8")
    else:
        pq.write_table(table, path)
    return build(tmp_path / "corpus", [Folder(folder, path)], cache=tmp_path / "cache", workers=1)


def of(column, rows=2):
    files = [f"{at}.png" for at in range(rows)]
    return pa.table({"file": files, "caption": ["a thing"] * rows, "creator": column})


def test_one_name_in_several_spellings_is_one_creator(tmp_path, folder):
    names = (JOSE, unicodedata.normalize("NFD", JOSE), f"\ufeff{JOSE}", f" {JOSE}\u200b", "Jos\u00ade\u0301")
    rows = "".join(f"{at}.png,thing {at},{name}\n" for at, name in enumerate(names))
    assert {item.creator for item in built(tmp_path, folder, f"file,caption,creator\n{rows}")} == {JOSE}


@pytest.mark.parametrize("head", ["File,Caption,Creator", "file,caption,CREATOR", "FILE, Caption , creator "])
def test_capitals_of_a_header_leave_nobody_unpaid(tmp_path, folder, head):
    (item,) = built(tmp_path, folder, f"{head}\n0.png,a thing,Ann\n")
    assert item.creator == "Ann"


@pytest.mark.parametrize(
    ("column", "creators"),
    [
        (pa.array([b"Ann", b"Bo"]), ["Ann", "Bo"]),
        (pa.array([12.0, float("nan")]), ["12", "unknown"]),
        (pa.array(["nan", "None"]), ["unknown", "unknown"]),
        (pa.array(["Unknown", "UNKNOWN"]), ["unknown", "unknown"]),
        (pa.array([["Ann"], ["Bo"]]), ["Ann", "Bo"]),
        (pa.array(["Ann", None]).dictionary_encode(), ["Ann", "unknown"]),
    ],
)
def test_cells_of_any_type_name_whom_they_name(tmp_path, folder, column, creators):
    assert [item.creator for item in built(tmp_path, folder, of(column))] == creators


@pytest.mark.parametrize("cell", [["Ann", "Bo"], {"name": "Ann"}])
def test_what_is_no_one_name_leaves_its_row_out_and_says_so(tmp_path, folder, cell):
    rows = [{"file": "0.png", "caption": "a", "creator": cell}]
    shard = tmp_path / "s.tar"
    with tarfile.open(shard, "w") as tar:
        for key, creator in (("a", cell), ("b", "Cy")):
            for ending, data in (
                ("png", (folder / "0.png").read_bytes()),
                ("json", json.dumps({"caption": "x", "creator": creator}).encode()),
            ):
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    corpus = build(tmp_path / "corpus", [WebDataset(str(shard))], cache=tmp_path / "cache", workers=1)
    assert [item.creator for item in corpus] == ["Cy"]
    (problem,) = corpus.facts["sources"][0]["problems"]
    assert "creator: must be one name" in problem["reason"]
    with pytest.raises(Exception, match="must be one name"):
        built(tmp_path, folder, pa.Table.from_pylist(rows))


def test_one_picture_has_one_row_however_its_place_is_written(tmp_path, folder):
    ways = ("0.png", "./0.png", "sub/../0.png", "gone/../0.png", "../pictures/0.png", str(folder / "0.png"))
    rows = "".join(f"{way},a thing,creator {at}\n" for at, way in enumerate(ways))
    corpus = built(tmp_path, folder, f"file,caption,creator\n{rows}")
    assert [(item.key, item.creator) for item in corpus] == [("pictures/0.png", "creator 0")]
    reasons = [problem["reason"] for problem in corpus.facts["sources"][0]["problems"]]
    assert reasons == ["listed twice"] * 5


def test_what_a_table_does_not_say_is_told_by_name_and_count(tmp_path, folder):
    (folder / ".hidden.png").write_bytes(b"x")
    table = (
        "file,caption,creator,artist,creator_orcid,\n0.png,a,Ann B.,x,0000-0002-1825-0097,\n1.png,b,ANN B,x,,\n"
        "2.png,c,Mrs Bee,x,0000-0002-1825-0097,\n3.png,d,,x,,\ngone.png,e,Cy,x,,\n"
    )
    notes = [
        "columns that are not read: artist",
        "2 pictures of the folder in no row of the table, such as 4.png",
        "one creator under several names? 'ANN B' and 'Ann B.'; 'Ann B.' and 'Mrs Bee'",
        "1 picture of 4 name no creator",
    ]
    assert built(tmp_path, folder, table).facts["sources"][0]["notes"] == notes
    plan = make_plan(Request(folder, tmp_path / "items.csv", tmp_path / "out"))
    assert list(plan.notes) == notes
    assert set(notes) <= set(plan.lines())
    shown = CliRunner().invoke(main, ["corpus", "show", str(tmp_path / "corpus")]).output
    assert all(f"note: {note}" in shown for note in notes)


def test_the_plan_leaves_out_what_the_corpus_does(tmp_path, folder):
    table = "file,caption,creator,creator_orcid\n0.png,a,Ann,0000-0002-1825-0097\n1.png,b,Bo,0000-0002-1825-0098\n"
    corpus = built(tmp_path, folder, table)
    plan = make_plan(Request(folder, tmp_path / "items.csv", tmp_path / "out"))
    assert plan.items == len(corpus) == 1
    assert "1.png: creator_orcid" in plan.left_out[0]


def test_nothing_of_numbers_is_no_caption(tmp_path, folder):
    captions = pa.array(np.array([np.nan, 7.0]))
    table = pa.table({"file": ["0.png", "1.png"], "caption": captions, "creator": ["Ann", "Bo"]})
    corpus = built(tmp_path, folder, table)
    assert [item.caption for item in corpus] == ["7"]
