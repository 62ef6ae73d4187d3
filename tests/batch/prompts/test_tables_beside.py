"""Law 6 for tables beside pictures: however a tool writes them, each line is a picture's prompt or is counted."""

import json
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.batch.plan import dry_run, make_plan
from attributary.batch.settings import Settings

GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"positive": ["6", 0], "negative": ["7", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog"}},
}
JOINED = GRAPH | {
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["8", 0]}},
    "8": {
        "class_type": "StringConcatenate",
        "inputs": {"string_a": "a", "string_b": "cat", "delimiter": " "},
    },
}
LINE = '{"file_name": "a.png", "prompt": "a cat"}\n'
UNREAD = "a line of a table that cannot be read"


@pytest.fixture
def read(tmp_path, picture):
    """Function: {name: content} -> what is read of a folder with these files and a.png."""

    def reading(files):
        place = tmp_path / "log"
        place.mkdir()
        for name, data in {"a.png": picture(0), **files}.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, pa.Table):
                pq.write_table(data, path)
            else:
                path.write_bytes(data if isinstance(data, bytes) else data.encode())
        found = dry_run(make_plan([place], Settings()))
        return {row["generation_id"].partition("/")[2]: row["prompt"] for row in found["first_rows"]}, found

    return reading


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # AUTOMATIC1111's button "save".
        ("log.csv", 'prompt,seed,cfgs,filename,negative_prompt\n"a cat",1,7,a.png,bad\n'),
        ("metadata.csv", "\ufefffile_name;prompt\r\na.png;a cat\r\n"),
        ("metadata.tsv", "file_name\tprompt\na.png\ta cat\n"),
        ("metadata.csv", "file_name,prompt\na.png,a cat\n".encode("utf-16")),
        ("metadata.csv", "File_Name, Prompt \na.png,a cat\n"),
        ("metadata.jsonl", '{"image": "a.png", "prompt": "a cat"}\n'),
        ("log.jsonl", '{"timestamp": "2026-11-30", "image_path": "./a.png", "prompt": "a cat"}\n'),
        ("log.csv", "\ufeffgeneration_id;img_path;prompt\r\ng1;a.png;a cat\r\n"),
        ("prompts.jsonl", '{"path": "/home/me/out/A.PNG", "Prompt": "a cat"}\n'),
        ("metadata.jsonl", '{"file_name": "a.png", "prompt": "a\u2028cat"}\n'),
        ("sub/metadata.jsonl", '{"file_name": "../a.png", "prompt": "a cat"}\n'),
        ("a.json", '{"PROMPT": "a cat"}'),
        ("a.json", json.dumps(GRAPH)),
        ("a.json", json.dumps({"prompt": GRAPH})),
    ],
)
def test_a_prompt_is_found_however_its_table_is_written(read, name, content):
    prompts, found = read({name: content})
    assert prompts == {"a.png": "a cat"}
    assert found["skipped"] == {}


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_with_an_accent_is_one_name(read, picture, forms):
    stored, written = (unicodedata.normalize(form, "\u00e9t\u00e9") for form in forms)
    table = json.dumps({"file_name": f"{written}.png", "prompt": "summer"}, ensure_ascii=False)
    other = stored.replace("t", "l")
    prompts, found = read({
        f"{stored}.png": picture(1), "metadata.jsonl": LINE + table, f"{other}.png": picture(2),
        f"{written.replace('t', 'l')}.txt": "beside",
    })  # fmt: skip
    assert prompts == {"a.png": "a cat", f"{stored}.png": "summer", f"{other}.png": "beside"}
    assert (found["skipped"], found["ignored"]) == ({}, {})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", LINE + '{"file_name": "b.png", "prompt": "cut o'),
        (
            "metadata.jsonl",
            '{"file_name": "b.png", "prompt": "Gr\xfc\xdfe"}\n'.encode("latin-1") + LINE.encode(),
        ),
        ("metadata.csv", "file_name,prompt\nb.png,Gr\xfc\xdfe\na.png,a cat\n".encode("latin-1")),
        ("metadata.csv", "file_name,prompt\nb.png,red, round\na.png,a cat\n"),
        ("metadata.csv", 'file_name,prompt\na.png,a cat\nb.png,"never closed\n'),
        ("metadata.jsonl", LINE + "[1]\n"),
    ],
)
def test_one_broken_line_is_counted_and_takes_no_other_with_it(read, picture, name, content):
    prompts, found = read({"b.png": picture(1), name: content})
    assert prompts == {"a.png": "a cat", "b.png": ""}
    assert found["skipped"] == {UNREAD: 1}


def test_texts_that_a_graph_joins_are_its_prompt(read):
    assert read({"a.json": json.dumps(JOINED)})[0] == {"a.png": "a, cat"}


@pytest.mark.parametrize("content", ["x,y\n1,2\n", "file_name,prompt\nelsewhere.png,a dog\n", ""])
def test_a_table_that_is_about_no_picture_here_is_counted(read, content):
    prompts, found = read({"results.csv": content})
    assert prompts == {"a.png": ""}
    assert found["skipped"] == {"a table that names no picture here": 1}


def test_a_table_speaks_of_pictures_below_it_alone(read, picture):
    """It was enough that the table's directory stood somewhere in another picture's path."""
    lines = '{"file_name": "0.png", "prompt": "gone"}\n{"file_name": "1.png", "prompt": "here"}\n'
    prompts, found = read({
        "x/sub10/0.png": picture(1), "sub1/1.png": picture(2), "sub1/metadata.jsonl": lines
    })  # fmt: skip
    assert prompts == {"a.png": "", "sub1/1.png": "here", "x/sub10/0.png": ""}
    assert found["ignored"] == {"a line of a table whose picture is not here": 1}


def test_columns_are_found_whatever_their_capitals(tmp_path, picture):
    columns = {"Image": [picture(0), picture(1)], "Prompt": ["a cat", "a dog"], "Model_ID": ["m", "m"]}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    found = dry_run(make_plan([tmp_path / "log.parquet"], Settings()))
    assert [(row["prompt"], row["model_id"]) for row in found["first_rows"]] == [
        ("a cat", "m"),
        ("a dog", "m"),
    ]
