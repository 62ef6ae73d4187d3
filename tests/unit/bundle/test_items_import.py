"""Reading items loads no pandas, wherever it is installed: it takes longer than the rest of a small bundle."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attributary.bundle.items import SCHEMA, ItemTable

READ = """
import sys
from pathlib import Path
from attributary.attribution.names import PromptNames
from attributary.bundle.items import ItemTable
PromptNames(ItemTable.read(Path(sys.argv[1]))).ready()
assert "pandas" not in sys.modules and "pyarrow.dataset" not in sys.modules
"""


def test_reading_items_loads_no_pandas(tmp_path):
    rows = [{field.name: 0 if field.type == pa.int64() else "x" for field in SCHEMA}]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "items.parquet")
    subprocess.run([sys.executable, "-c", READ, str(tmp_path / "items.parquet")], check=True)


def test_rows_are_found_by_words_of_any_script():
    captions = ["The Déjà vu", "猫 on a mat", "nothing", "a mat, déjà"]
    rows = [
        {field.name: n if field.type == pa.int64() else captions[n] for field in SCHEMA} for n in range(4)
    ]
    items = ItemTable(pa.Table.from_pylist(rows, SCHEMA))
    assert items.rows_with_words({"deja", "猫"}, 0, 4).tolist() == [0, 1, 3]
    assert items.rows_with_words({"mat"}, 2, 4).tolist() == [3]
    assert items.rows_with_words(set(), 0, 4).tolist() == []


@pytest.mark.parametrize("other", ["", "é"])
def test_captions_of_ascii_are_taken_apart_as_all_are(other):
    captions = [f"A{chr(code)}b2{other}" for code in range(128)] + [other, f"b2{other}"]
    rows = [
        {field.name: n if field.type == pa.int64() else text for field in SCHEMA}
        for n, text in enumerate(captions)
    ]
    items = ItemTable(pa.Table.from_pylist(rows, SCHEMA))
    parted = [n for n, text in enumerate(captions) if not text[1:2].isalnum()]
    word = f"b2{'e' if other else ''}"
    assert items.rows_with_words({word}, 0, len(rows)).tolist() == [
        n for n, text in enumerate(captions) if (n < 128 and n in parted) or text == f"b2{other}"
    ]


def test_columns_in_many_chunks_are_read_as_one():
    rows = [{field.name: n if field.type == pa.int64() else f"x{n}" for field in SCHEMA} for n in range(4)]
    parts = [pa.Table.from_pylist([row], SCHEMA) for row in rows]
    items = ItemTable(pa.concat_tables(parts))
    assert [items.id_of(row) for row in range(4)] == [0, 1, 2, 3]
    assert [items.creator(row) for row in range(4)] == ["x0", "x1", "x2", "x3"]
