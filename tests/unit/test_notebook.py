"""Answers in a notebook, and the notebook itself, executed."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from attributary.attribution.types import Options, Query
from attributary.client.types import Answer, AttributedItem, CreatorShare
from attributary.notebook import _parts

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
NASTY = "<script>$alert$</script>"


def answer():
    items = tuple(
        AttributedItem(10 + rank, rank, 0.5, 0.125, "a <b>caption</b>", NASTY, "CC0-1.0", "", "", 1)
        for rank in (1, 2)
    )
    creators = tuple(CreatorShare(f"creator {number}" if number else NASTY, 0.05, 1) for number in range(12))
    return Answer(items, creators, 0.3, 0.1, False, "b", "1", None)


def test_text_of_others_is_escaped():
    shown = answer()._repr_html_()
    assert "<script>" not in shown and "<b>caption" not in shown
    assert "&lt;script&gt;" in shown and "12.5%" in shown
    assert "nothing is given" in replace(answer(), out_of_distribution=True)._repr_html_()


def test_parts_add_up_to_one():
    parts = _parts(answer())
    assert sum(share for _, share in parts) == pytest.approx(1)
    assert [name for name, _ in parts[-3:]] == ["further creators", "withheld", "nobody in particular"]


def test_a_data_frame_has_a_row_an_item():
    pytest.importorskip("pandas")
    frame = answer().to_pandas()
    assert frame["id"].tolist() == [11, 12] and frame["share"].tolist() == [0.125, 0.125]
    assert list(replace(answer(), items=()).to_pandas().columns) == list(frame.columns)


def test_a_plot_has_a_bar_a_part():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    axes = answer().plot()
    assert len(axes.patches) == 13
    axes.figure.canvas.draw()
    assert axes.get_xlabel() == "share of the picture's influence"


def test_the_cores_answers_are_shown_too(tiny_engine, picture):
    found = tiny_engine.attribute(Query(image=picture(3)), Options(top_k=2))
    assert "1003" in found._repr_html_()


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(path, server, tiny_corpus_dir, monkeypatch):
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.setenv("ATTRIBUTARY_ADDRESS", server.address)
    monkeypatch.setenv("PICTURE", str(tiny_corpus_dir / "pictures" / "3.png"))
    cells = json.loads(path.read_text())["cells"]
    names, shown = {}, []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [], "a notebook is committed without what it showed"
        tree = ast.parse(cell["source"])
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
    assert "1003" in shown[0]._repr_html_()
